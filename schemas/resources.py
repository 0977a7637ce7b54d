"""Resources: what people declare, and what the system says of it.

A resource's specification and its status live under two keys of the resources bucket, because two parties write them:
whoever applies it, and the service that uses it. Unknown fields are errors. The field names are those of the control
plane that Holdfast succeeds (`acp.humanlayer.dev/v1alpha1`); what it does not have comes last in each struct.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import msgspec

from schemas.requests import FailureCause, Limits, ResponseFormat
from schemas.wire import Instant, Strict, Wire, check_money

API_VERSION = "holdfast.dev/v1"
API_VERSIONS_ACCEPTED = (API_VERSION, "acp.humanlayer.dev/v1alpha1")
Kind = Literal["LLM", "Agent", "MCPServer", "Toolset", "ContactChannel", "Quota", "Subscription", "Grant"]
"""The kinds that the resources bucket holds. `Task` is a kind of manifest too: it is submitted."""
KINDS: tuple[Kind, ...] = ("Quota", "LLM", "MCPServer", "Toolset", "ContactChannel", "Subscription", "Agent", "Grant")
"""In the order in which it is useful to apply them."""

Status = Literal["Ready", "Error", "Pending"]
Number = float | str
"""A number, or the same in quotes, as the predecessor's manifests have it."""


class Metadata(Strict, frozen=True, kw_only=True):
    """Name, namespace and free-form labels of a resource."""

    name: str
    namespace: str = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Ref(Strict, frozen=True, kw_only=True):
    """Another resource in the same namespace."""

    name: str


class SecretKeyRef(Strict, frozen=True, kw_only=True):
    """A key of a secret: the file `$HOLDFAST_SECRETS_DIR/<name>/<key>`, or an environment variable."""

    name: str
    key: str


class SecretSource(Strict, frozen=True, kw_only=True):
    """Where a secret value comes from."""

    secret_key_ref: SecretKeyRef


def _check_positive(limits: msgspec.Struct) -> None:
    """Refuse numbers that are set and not above zero."""
    for field in msgspec.structs.fields(type(limits)):
        value = getattr(limits, field.name)
        if isinstance(value, int | float | Decimal) and not value > 0:
            raise ValueError(f"{field.encode_name} is {value}; it must be more than 0")


# --- LLM --------------------------------------------------------------------------------


class LLMParameters(Strict, frozen=True, kw_only=True):
    """What is sent with every call. What is not set is not sent."""

    model: str | None = None
    base_url: str | None = None
    temperature: Number | None = None
    max_tokens: int | None = None
    top_p: Number | None = None
    top_k: int | None = None
    frequency_penalty: Number | None = None
    presence_penalty: Number | None = None
    timeout_s: float = msgspec.field(default=120.0, name="timeoutSeconds")
    """Wall time of one call, in seconds."""
    concurrency: int = 16
    """Calls at once, per replica."""
    context_tokens: int | None = None
    """Tokens that the model's context holds, question and answer together. Unknown: only the provider's refusal
    tells that a conversation is too long."""
    stop: tuple[str, ...] = ()
    seed: int | None = None
    reasoning_effort: str | None = None
    """OpenAI's `reasoning_effort`: low, medium, high."""


class LLMLimits(Strict, frozen=True, kw_only=True):
    """What may be asked of a model, by all replicas together.

    LLMs that use the same key for the same model at the same address share one count, whatever their namespaces.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Input and output."""
    concurrency: int | None = None
    """Calls at once."""

    def __post_init__(self) -> None:
        """Refuse a limit that would let nothing through."""
        _check_positive(self)


class OpenAIOptions(Strict, frozen=True, kw_only=True):
    """Options of the OpenAI family."""

    organization: str | None = None
    api_type: Literal["OPEN_AI", "AZURE", "AZURE_AD"] = "OPEN_AI"
    api_version: str | None = None


class AnthropicOptions(Strict, frozen=True, kw_only=True):
    """Options of Anthropic."""

    anthropic_beta_header: str | None = None
    thinking_budget_tokens: int | None = None
    """Turns extended thinking on, with this many tokens; 1024 at least."""
    prompt_caching: bool = True
    """Mark what stays the same from turn to turn, so that it is read from the provider's cache."""


class VertexOptions(Strict, frozen=True, kw_only=True):
    """Options of Google Vertex."""

    cloud_project: str
    cloud_location: str


class MistralOptions(Strict, frozen=True, kw_only=True):
    """Options of Mistral."""

    max_retries: int | None = None
    timeout: int | None = None
    random_seed: int | None = None


class GoogleOptions(Strict, frozen=True, kw_only=True):
    """Options of Google."""

    cloud_project: str | None = None
    cloud_location: str | None = None


class ScriptedCall(Strict, frozen=True, kw_only=True):
    """A tool call that a scripted model asks for."""

    tool: str
    arguments: dict[str, Any] | str = {}


class ScriptedFailure(Strict, frozen=True, kw_only=True):
    """A failure that a scripted model has."""

    status: int
    message: str = "scripted failure"
    times: int = 1
    """How many attempts of the turn fail so."""
    retry_after_s: float | None = msgspec.field(default=None, name="retryAfterSeconds")


class ScriptedReply(Strict, frozen=True, kw_only=True):
    """What a scripted model answers.

    In `text` and in string arguments, `{user}` is the last user message, `{result}` the last tool result,
    `{results}` all tool results of the turn before, one per line, `{turn}` the number of the turn.
    """

    text: str = ""
    calls: tuple[ScriptedCall, ...] = ()
    delay_s: float = msgspec.field(default=0.0, name="delaySeconds")
    fail: ScriptedFailure | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class ScriptedRule(Strict, frozen=True, kw_only=True):
    """When a scripted model answers what: all conditions given must hold; the first rule that matches answers."""

    reply: ScriptedReply
    turn: int | None = None
    user_contains: str | None = None
    result_contains: str | None = None


class ScriptedOptions(Strict, frozen=True, kw_only=True):
    """A model that follows a script. For demonstrations, tests and development; it is no model and says so."""

    transcript: tuple[ScriptedReply, ...] = ()
    """The answer of turn 1, of turn 2, ...; the last one is repeated."""
    rules: tuple[ScriptedRule, ...] = ()
    """Looked at before the transcript."""


class Pricing(Strict, frozen=True, kw_only=True):
    """US dollars for a million tokens."""

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    """What is written into the provider's cache; absent: as `input`."""

    def __post_init__(self) -> None:
        """Refuse a price that nothing could be multiplied with."""
        prices = {
            "input": self.input,
            "output": self.output,
            "cachedInput": self.cached_input,
            "cacheWrite": self.cache_write,
        }
        for what, price in prices.items():
            check_money(what, price)


class LLMSpec(Strict, frozen=True, kw_only=True):
    """A model and how to reach it."""

    provider: Literal["openai", "anthropic", "mistral", "google", "vertex", "scripted"]
    api_key_from: SecretSource | None = None
    parameters: LLMParameters = LLMParameters()
    openai: OpenAIOptions | None = None
    anthropic: AnthropicOptions | None = None
    vertex: VertexOptions | None = None
    mistral: MistralOptions | None = None
    google: GoogleOptions | None = None
    scripted: ScriptedOptions | None = None
    pricing: Pricing | None = None
    limits: LLMLimits = LLMLimits()
    tool_calling: Literal["native", "text"] = "native"
    """`text`: for a model without function calling; tools are described in the instructions, and calls are read from
    its text."""


# --- MCPServer --------------------------------------------------------------------------


class EnvVar(Strict, frozen=True, kw_only=True):
    """A variable or header: a literal value, or a secret's."""

    name: str
    value: str = ""
    value_from: SecretSource | None = None


class ToolPolicy(Strict, frozen=True, kw_only=True):
    """What the manifest knows better than the server's own annotations; the first policy that matches a tool counts."""

    tool: str
    """The tool's own name (without `server__`), or a shell pattern."""
    read_only: bool | None = None
    idempotent: bool | None = None
    on_uncertain: Literal["fail", "retry", "ask"] | None = None
    """What to do with a call that was started and whose outcome nobody knows. `ask`: people say; so it is, unless it is
    given, where there is a contact channel to ask."""
    timeout_s: float | None = msgspec.field(default=None, name="timeoutSeconds")


class OAuthClient(Strict, frozen=True, kw_only=True):
    """Signing in to an HTTP server by OAuth 2's client credentials grant."""

    client_id: str
    client_secret_from: SecretSource
    scopes: tuple[str, ...] = ()
    token_url: str = ""
    """Absent: found by the server's metadata, as MCP's authorization specification has it."""
    token_endpoint_auth: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"  # noqa: S105 - a method


class MCPServerSpec(Strict, frozen=True, kw_only=True):
    """A server of tools."""

    transport: Literal["stdio", "http", "sse"]
    """`http`: streamable HTTP; `sse`: the transport of servers before 2025-03-26."""
    command: str = ""
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    url: str = ""
    resources: dict[str, dict[str, Any]] | None = None
    approval_contact_channel: Ref | None = None
    contact_channel: Ref | None = None
    """Who is asked what the server wants to know, and about calls whose outcome nobody knows. Absent: those who
    approve."""
    headers: tuple[EnvVar, ...] = ()
    timeout_s: float = msgspec.field(default=60.0, name="timeoutSeconds")
    """Wall time of one call, in seconds."""
    concurrency: int = 16
    """Calls at once, per replica."""
    policies: tuple[ToolPolicy, ...] = ()
    bearer_from: SecretSource | None = None
    """Sent as `Authorization: Bearer`."""
    oauth: OAuthClient | None = None
    elicitation: bool = True
    """Whether it may ask people something while one of its tools runs."""
    elicitation_timeout_s: float = msgspec.field(default=300.0, name="elicitationTimeoutSeconds")
    """How long they may take to answer, in seconds; then the server is told that nobody did."""


# --- Toolset ----------------------------------------------------------------------------

BuiltinToolset = Literal["shell", "http", "files"]
BUILTIN_TOOLSETS: tuple[BuiltinToolset, ...] = ("shell", "http", "files")
"""Toolsets that an agent may name without anybody having declared them; then they are as their defaults say."""


class ShellOptions(Strict, frozen=True, kw_only=True):
    """Commands in a working directory that the task keeps for its lifetime, each in a process group of its own."""

    timeout_s: float = msgspec.field(default=60.0, name="timeoutSeconds")
    cpu_s: int = msgspec.field(default=60, name="cpuSeconds")
    """Processor time of one process."""
    memory_mib: int = 1024
    """Address space of one process."""
    file_mib: int = 256
    """Largest file that a process may write."""
    processes: int = 128
    """Processes at once, of one command."""
    output_bytes: int = 1 << 20
    """Kept of a command's output; the rest is read and dropped."""
    env: tuple[EnvVar, ...] = ()
    """All that a command finds in its environment besides PATH, HOME and LANG."""
    network: bool = False
    """Whether commands reach the network, where a sandbox can say so (`bwrap`)."""
    sandbox: Literal["auto", "required", "none"] = "auto"
    """`auto`: under `bwrap` if that is there, and the result says so when it is not."""


class HTTPOptions(Strict, frozen=True, kw_only=True):
    """Requests to the network. Private, loopback, link-local and metadata addresses are refused unless allowed."""

    timeout_s: float = msgspec.field(default=30.0, name="timeoutSeconds")
    allow: tuple[str, ...] = ()
    """Hosts (`api.example.com`, `*.example.com`), addresses and networks that are allowed though they are private."""
    only: tuple[str, ...] = ()
    """If given: no other host."""
    methods: tuple[str, ...] = ("GET", "HEAD")
    headers: tuple[EnvVar, ...] = ()
    """Sent with every request to a host in `only`; they may hold secrets."""
    response_bytes: int = 1 << 20


class FilesOptions(Strict, frozen=True, kw_only=True):
    """Reading and writing in the task's working directory, which it shares with `shell`."""

    read_only: bool = False
    file_bytes: int = 10 << 20
    """Largest file that is written or read."""


class CommandTool(Strict, frozen=True, kw_only=True):
    """A program as a tool."""

    name: str
    description: str
    command: tuple[str, ...] | str
    """The program and its first arguments; a string is split as a shell would."""
    command_desc: str = msgspec.field(default="", name="command_desc")
    """What the model is told about the tool's one argument, `command`, if no schema is given."""
    is_interactive: bool = msgspec.field(default=False, name="is_interactive")
    """A program that wants a terminal is refused."""
    input_schema: dict[str, Any] | None = None
    """Given: the arguments, which reach the program as JSON on standard input, and by `{name}` in `command`."""
    read_only: bool = False
    idempotent: bool = False
    timeout_s: float | None = msgspec.field(default=None, name="timeoutSeconds")
    shell: bool = False
    """What the model writes is a line for bash, with pipes and all; otherwise it is split, and nothing is expanded."""


class ToolsetSpec(Strict, frozen=True, kw_only=True):
    """Tools that the tool-executor brings itself: exactly one of these."""

    shell: ShellOptions | None = None
    http: HTTPOptions | None = None
    files: FilesOptions | None = None
    commands: tuple[CommandTool, ...] = ()
    concurrency: int = 16
    """Calls at once, per replica."""
    policies: tuple[ToolPolicy, ...] = ()
    command_options: ShellOptions = ShellOptions()
    """How `commands` are run."""
    contact_channel: Ref | None = None
    """Who is asked about calls whose outcome nobody knows."""


# --- Quota ------------------------------------------------------------------------------


class QuotaSpec(Strict, frozen=True, kw_only=True):
    """What a namespace may use, by all its tasks and all replicas together."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_tokens_per_day: int | None = None
    """Input and output tokens between one midnight UTC and the next."""
    max_cost_per_day: Decimal | None = None
    """US dollars."""
    when_spent: Literal["fail", "wait"] = "fail"
    """What becomes of a task whose next call would be more than the day's: it fails, or waits for the next day."""
    weight: int = 1
    """The namespace's share of a limit that several namespaces wait for, beside the others' weights."""

    def __post_init__(self) -> None:
        """Refuse a limit that would let nothing through, and a cost that is none."""
        check_money("maxCostPerDay", self.max_cost_per_day)
        _check_positive(self)


# --- ContactChannel ---------------------------------------------------------------------


class SlackOptions(Strict, frozen=True, kw_only=True):
    """A Slack channel or person.

    With a bot token, Holdfast talks to Slack itself; otherwise the HumanLayer API does, with the channel's API key.
    """

    channel_or_user_id: str = msgspec.field(name="channelOrUserID")
    context_about_channel_or_user: str = ""
    allowed_responder_ids: tuple[str, ...] = msgspec.field(default=(), name="allowedResponderIDs")
    bot_token_from: SecretSource | None = None
    signing_secret_from: SecretSource | None = None
    """Slack's signing secret, by which what people do is known to come from Slack."""


class EmailOptions(Strict, frozen=True, kw_only=True):
    """A person's e-mail address."""

    address: str
    context_about_user: str = ""
    subject: str = ""
    smtp: SMTPOptions | None = None
    """Given: Holdfast sends mail itself; otherwise the HumanLayer API does, with the channel's API key."""
    imap: IMAPOptions | None = None
    inbound_secret_from: SecretSource | None = None
    """Signs the replies that a mail provider posts to `/email/inbound` (Standard Webhooks)."""


class WebhookOptions(Strict, frozen=True, kw_only=True):
    """A service of somebody's own that shows questions to people and posts their answers."""

    url: str
    signing_secret_from: SecretSource
    """Signs what is sent and what comes back (Standard Webhooks)."""
    headers: tuple[EnvVar, ...] = ()
    timeout_s: float = msgspec.field(default=10.0, name="timeoutSeconds")


class SMTPOptions(Strict, frozen=True, kw_only=True):
    """The server that mail is sent through."""

    host: str
    port: int = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    password_from: SecretSource | None = None
    sender: str = msgspec.field(name="from")


class IMAPOptions(Strict, frozen=True, kw_only=True):
    """The mailbox that replies arrive in."""

    host: str
    port: int = 993
    security: Literal["tls", "starttls", "none"] = "tls"
    username: str
    password_from: SecretSource
    mailbox: str = "INBOX"


OnTimeout = Literal["deny", "approve", "escalate", "fail"]
"""What a question becomes that nobody answered in time. `deny`: rejected, which the model is told; `approve`: approved;
`escalate`: the next channel is asked; `fail`: the call fails."""


class ContactChannelSpec(Strict, frozen=True, kw_only=True):
    """A way to reach people."""

    type: Literal["slack", "email", "webhook", "console"]
    api_key_from: SecretSource | None = None
    channel_api_key_from: SecretSource | None = None
    channel_id: str = ""
    slack: SlackOptions | None = None
    email: EmailOptions | None = None
    webhook: WebhookOptions | None = None
    description: str = ""
    """What a model is told about whom it reaches."""
    timeout_s: float | None = msgspec.field(default=None, name="timeoutSeconds")
    """How long people have to answer; absent: as long as the task may take."""
    on_timeout: OnTimeout = "deny"
    escalate_to: Ref | None = None
    """The channel that is asked next, with its own time to answer."""
    remind_s: float | None = msgspec.field(default=None, name="remindSeconds")
    """How often people are reminded."""
    quorum: int = 1
    """How many different people must approve. One who rejects is enough to reject."""
    allowed_responder_ids: tuple[str, ...] = msgspec.field(default=(), name="allowedResponderIDs")
    """Who may answer, by their ids in the channel; empty: whoever is reached."""
    continue_threads: bool = False
    """What somebody who may answer replies to a task's answer is said in the task's thread, which so goes on."""


# --- Subscription -----------------------------------------------------------------------

Ending = Literal["task.finished", "task.failed", "task.cancelled"]
"""How a task has ended, for those who want to be told."""


class WebhookSink(Strict, frozen=True, kw_only=True):
    """A JSON document is posted to an address, signed as Standard Webhooks has it."""

    url: str
    secret_from: tuple[SecretSource, ...]
    """The signing keys (`whsec_...`): each of them signs, so that a receiver may change from one to the next."""
    headers: tuple[EnvVar, ...] = ()
    """Sent along, to this address only and not to where it redirects."""
    timeout_s: float = msgspec.field(default=10.0, name="timeoutSeconds")


class SlackSink(Strict, frozen=True, kw_only=True):
    """A Slack message: by the Web API to a channel, or through an incoming webhook. Exactly one of the two."""

    channel: str = ""
    token_from: SecretSource | None = None
    """A bot's token (`xoxb-...`), for `channel`."""
    webhook_from: SecretSource | None = None
    """A secret that holds the address of an incoming webhook."""
    api_url: str = msgspec.field(default="https://slack.com/api", name="apiURL")
    timeout_s: float = msgspec.field(default=10.0, name="timeoutSeconds")


class SMTPServer(Strict, frozen=True, kw_only=True):
    """A mail server that takes messages for others."""

    host: str
    port: int = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    username_from: SecretSource | None = None
    password_from: SecretSource | None = None
    timeout_s: float = msgspec.field(default=30.0, name="timeoutSeconds")


class EmailSink(Strict, frozen=True, kw_only=True):
    """An e-mail."""

    to: tuple[str, ...]
    from_: str = msgspec.field(name="from")
    smtp: SMTPServer


class SubscriptionSpec(Strict, frozen=True, kw_only=True):
    """Who is told when tasks of the namespace end: exactly one of `webhook`, `slack` and `email`."""

    events: tuple[Ending, ...] = ("task.finished", "task.failed", "task.cancelled")
    agents: tuple[str, ...] = ()
    """Tasks of these agents only."""
    labels: dict[str, str] = {}
    """Tasks with all of these labels only."""
    webhook: WebhookSink | None = None
    slack: SlackSink | None = None
    email: EmailSink | None = None


# --- Agent ------------------------------------------------------------------------------


class ServerRef(Strict, frozen=True, kw_only=True):
    """A server or toolset, and what of it an agent may use."""

    name: str
    tools: tuple[str, ...] | None = None
    """Names, or shell patterns, of the tools that it may use; absent: all."""
    resources: bool = False
    """MCP: may list and read the server's resources, by two tools more."""
    prompts: bool = False
    """MCP: may list and get the server's prompts, by two tools more."""


class Fallback(Strict, frozen=True, kw_only=True):
    """Another LLM, and the failures after which it is asked."""

    llm_ref: Ref
    on: tuple[FailureCause, ...] = ("rateLimited", "overloaded", "timeout", "network", "quotaExhausted")


class ContextPolicy(Strict, frozen=True, kw_only=True):
    """What becomes of a conversation that does not fit into the model's context any more."""

    when_full: Literal["fail", "truncateToolResults", "summarize"] = "truncateToolResults"
    """`truncateToolResults`: the oldest results lose their middle; `summarize`: the model summarizes the beginning."""
    threshold: float = 0.85
    """The part of the context that may be filled before that happens."""

    def __post_init__(self) -> None:
        """Refuse a threshold that is none."""
        if not 0.1 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; it must be 0.1 to 1")


class ApprovalRule(Strict, frozen=True, kw_only=True):
    """Which calls people have to approve, and whom to ask. The first rule that names a tool counts."""

    tools: tuple[str, ...] = ("*",)
    """Names as the model sees them (`server__tool`), or shell patterns."""
    when: Literal["always", "writes", "never"] = "always"
    """`writes`: unless the tool says that it only reads."""
    contact_channel: Ref | None = None
    """Needed unless `when` is `never`."""

    def __post_init__(self) -> None:
        """Refuse a rule that asks nobody."""
        if self.when != "never" and self.contact_channel is None:
            raise ValueError("an approval rule needs a contactChannel, unless `when` is never")


class AgentSpec(Strict, frozen=True, kw_only=True):
    """A model, instructions, and what it may use."""

    llm_ref: Ref
    system: str
    mcp_servers: tuple[ServerRef, ...] = ()
    human_contact_channels: tuple[Ref, ...] = ()
    sub_agents: tuple[Ref, ...] = ()
    description: str = ""
    limits: Limits = Limits()
    toolsets: tuple[ServerRef, ...] = ()
    """Of this namespace, or the built-in `shell`, `http` and `files`."""
    fallbacks: tuple[Fallback, ...] = ()
    """In this order, each on the failures that it names."""
    response_format: ResponseFormat | None = None
    context: ContextPolicy = ContextPolicy()
    approvals: tuple[ApprovalRule, ...] = ()
    """Beside what a server's `approvalContactChannel` asks for in any case."""


# --- Grant ------------------------------------------------------------------------------


class GrantSpec(Strict, frozen=True, kw_only=True):
    """An approval for good: calls of a tool by an agent that people are not asked about any more.

    Made when somebody approves a call "always"; deleting it revokes it.
    """

    agent: str
    tool: str
    """The name that the model sees."""
    digest: str = ""
    """Only with the arguments that have this digest (`ids.call_digest`); empty: with any."""
    arguments: str = ""
    """Those arguments, for people."""
    by: str = ""
    """Who approved it."""
    via: str = ""
    """The channel through which they did."""
    task: str = ""
    """The task whose call it was."""
    at: Instant | None = None


# --- stored forms -----------------------------------------------------------------------


class LLM(Strict, frozen=True, kw_only=True, tag_field="kind", tag="LLM"):
    """An LLM as it was applied."""

    metadata: Metadata
    spec: LLMSpec
    api_version: str = API_VERSION


class Agent(Strict, frozen=True, kw_only=True, tag_field="kind", tag="Agent"):
    """An Agent as it was applied."""

    metadata: Metadata
    spec: AgentSpec
    api_version: str = API_VERSION


class MCPServer(Strict, frozen=True, kw_only=True, tag_field="kind", tag="MCPServer"):
    """An MCPServer as it was applied."""

    metadata: Metadata
    spec: MCPServerSpec
    api_version: str = API_VERSION


class ContactChannel(Strict, frozen=True, kw_only=True, tag_field="kind", tag="ContactChannel"):
    """A ContactChannel as it was applied."""

    metadata: Metadata
    spec: ContactChannelSpec
    api_version: str = API_VERSION


class Toolset(Strict, frozen=True, kw_only=True, tag_field="kind", tag="Toolset"):
    """A Toolset as it was applied."""

    metadata: Metadata
    spec: ToolsetSpec
    api_version: str = API_VERSION


class Quota(Strict, frozen=True, kw_only=True, tag_field="kind", tag="Quota"):
    """A Quota as it was applied. A namespace has one, and its name is `default`."""

    metadata: Metadata
    spec: QuotaSpec
    api_version: str = API_VERSION


class Grant(Strict, frozen=True, kw_only=True, tag_field="kind", tag="Grant"):
    """A Grant as it was made."""

    metadata: Metadata
    spec: GrantSpec
    api_version: str = API_VERSION


class Subscription(Strict, frozen=True, kw_only=True, tag_field="kind", tag="Subscription"):
    """A Subscription as it was applied."""

    metadata: Metadata
    spec: SubscriptionSpec
    api_version: str = API_VERSION


QUOTA_NAME = "default"

Resource = LLM | Agent | MCPServer | Toolset | ContactChannel | Quota | Subscription | Grant


class ToolAnnotations(Wire, frozen=True, kw_only=True):
    """What an MCP server says of a tool's effects; absent: it does not say."""

    read_only: bool | None = None
    idempotent: bool | None = None
    destructive: bool | None = None
    open_world: bool | None = None


class ToolInfo(Wire, frozen=True, kw_only=True):
    """A tool as its server describes it."""

    name: str
    """The server's own name for it."""
    description: str = ""
    input_schema: dict[str, Any] = {}
    annotations: ToolAnnotations = ToolAnnotations()


class ResourceStatus(Wire, frozen=True, kw_only=True, tag_field="kind", tag="Status"):
    """What the service that uses a resource says of it."""

    ready: bool
    status: Status
    status_detail: str
    observed_revision: int
    """The revision of the specification that this is about."""
    at: Instant
    by: str = ""
    """The service that says so."""
    tools: tuple[ToolInfo, ...] = ()
    """MCPServer: its tools, sorted by name."""
    pool: str = ""
    """LLM with limits: the account whose count it shares, as a key of the flow bucket has it."""
