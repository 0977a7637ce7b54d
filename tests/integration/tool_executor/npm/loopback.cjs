// Preloaded into servers that would listen on every interface: on the loopback only, and tell on which port.
const { writeSync } = require("node:fs");
const { Server } = require("node:net");

const listen = Server.prototype.listen;
Server.prototype.listen = function (_port, ...rest) {
  this.once("listening", () => writeSync(Number(process.env.TELL), `${this.address().port}\n`));
  const ready = rest.find((one) => typeof one === "function");
  return listen.call(this, { host: "127.0.0.1", port: Number(process.env.PORT) }, ...(ready ? [ready] : []));
};
