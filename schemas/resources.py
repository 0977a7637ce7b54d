"""Resources: what people declare, and what the system says of it.

A resource's specification and its status live under two keys of the resources bucket, because two parties write them:
whoever applies it, and the service that uses it. Unknown fields are errors. The field names are those of the control
plane that Holdfast succeeds (`acp.humanlayer.dev/v1alpha1`); what it does not have comes last in each struct.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import msgspec

from schemas.requests import Limits
from schemas.wire import Instant, Strict, Wire, check_money

API_VERSION = "holdfast.dev/v1"
API_VERSIONS_ACCEPTED = (API_VERSION, "acp.humanlayer.dev/v1alpha1")
Kind = Literal["LLM", "Agent", "MCPServer", "ContactChannel"]
"""The kinds that the resources bucket holds. `Task` is a kind of manifest too: it is submitted."""
KINDS: tuple[Kind, ...] = ("LLM", "MCPServer", "ContactChannel", "Agent")
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


class OpenAIOptions(Strict, frozen=True, kw_only=True):
    """Options of the OpenAI family."""

    organization: str | None = None
    api_type: Literal["OPEN_AI", "AZURE", "AZURE_AD"] = "OPEN_AI"
    api_version: str | None = None


class AnthropicOptions(Strict, frozen=True, kw_only=True):
    """Options of Anthropic."""

    anthropic_beta_header: str | None = None


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

    def __post_init__(self) -> None:
        """Refuse a price that nothing could be multiplied with."""
        for what, price in (("input", self.input), ("output", self.output), ("cachedInput", self.cached_input)):
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
    on_uncertain: Literal["fail", "retry"] | None = None
    """What to do with a call that was started and whose outcome nobody knows."""
    timeout_s: float | None = msgspec.field(default=None, name="timeoutSeconds")


class MCPServerSpec(Strict, frozen=True, kw_only=True):
    """A server of tools."""

    transport: Literal["stdio", "http"]
    command: str = ""
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    url: str = ""
    resources: dict[str, dict[str, Any]] | None = None
    approval_contact_channel: Ref | None = None
    headers: tuple[EnvVar, ...] = ()
    timeout_s: float = msgspec.field(default=60.0, name="timeoutSeconds")
    """Wall time of one call, in seconds."""
    concurrency: int = 16
    """Calls at once, per replica."""
    policies: tuple[ToolPolicy, ...] = ()


# --- ContactChannel ---------------------------------------------------------------------


class SlackOptions(Strict, frozen=True, kw_only=True):
    """A Slack channel or person."""

    channel_or_user_id: str = msgspec.field(name="channelOrUserID")
    context_about_channel_or_user: str = ""
    allowed_responder_ids: tuple[str, ...] = msgspec.field(default=(), name="allowedResponderIDs")


class EmailOptions(Strict, frozen=True, kw_only=True):
    """A person's e-mail address."""

    address: str
    context_about_user: str = ""
    subject: str = ""


class ContactChannelSpec(Strict, frozen=True, kw_only=True):
    """A way to reach people."""

    type: Literal["slack", "email"]
    api_key_from: SecretSource | None = None
    channel_api_key_from: SecretSource | None = None
    channel_id: str = ""
    slack: SlackOptions | None = None
    email: EmailOptions | None = None


# --- Agent ------------------------------------------------------------------------------


class AgentSpec(Strict, frozen=True, kw_only=True):
    """A model, instructions, and what it may use."""

    llm_ref: Ref
    system: str
    mcp_servers: tuple[Ref, ...] = ()
    human_contact_channels: tuple[Ref, ...] = ()
    sub_agents: tuple[Ref, ...] = ()
    description: str = ""
    limits: Limits = Limits()


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


Resource = LLM | Agent | MCPServer | ContactChannel


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
