from __future__ import annotations

import textwrap

import pytest

from schemas.messages import ImagePart, TextPart, ToolMessage, UserMessage
from schemas.resources import Quota, Toolset
from services.cli.manifests import BadManifests, Parsed, parse


def parsed(kind: str, spec: str, *, name: str = "x") -> Parsed:
    head = f"apiVersion: holdfast.dev/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n"
    return parse([("x.yaml", head + textwrap.indent(textwrap.dedent(spec), "  "))])


def problems(kind: str, spec: str, *, name: str = "x") -> list[str]:
    """The first line of each problem."""
    with pytest.raises(BadManifests) as caught:
        parsed(kind, spec, name=name)
    return [f"{problem.line}: {problem.field}: {problem.message}" for problem in caught.value.problems]


KEY = "{secretKeyRef: {name: a, key: b}}"
AGENT = "llmRef: {name: main}\nsystem: Help.\n"


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("concurrency: 2", "4: spec: exactly one of shell, http, files and commands is needed, not none"),
        (
            "shell: {}\nfiles: {}",
            "4: spec: exactly one of shell, http, files and commands is needed, not shell and files",
        ),
        (
            "shell:\n  network: true\n  cpuSeconds: 0",
            "7: spec.shell.cpuSeconds: is 0; it must be more than 0",
        ),
        ("shell: {sandbox: maybe}", "5: spec.shell.sandbox: 'maybe' is not one of auto, none, required"),
        (
            "commands:\n- {name: a, description: A, command: a}\n- {name: a, description: B, command: b}",
            "4: spec: two commands have the name 'a'",
        ),
        (
            "commands:\n- name: b\n  description: B\n  command: vi\n  is_interactive: true",
            "9: spec.commands[0].is_interactive: a program that wants a terminal cannot be a tool",
        ),
        ("http: {methods: [get]}", "5: spec.http: 'get' is no method (write it in capitals)"),
        ("shel: {}", "5: spec.shel: unknown field; did you mean shell?"),
    ],
)
def test_a_toolset_that_contradicts_itself_is_refused_with_its_place(spec: str, problem: str) -> None:
    assert problem in problems("Toolset", spec)


def test_toolsets_of_every_type_are_read() -> None:
    for spec in ("shell: {}", "http: {only: [api.example.com]}", "files: {readOnly: true}"):
        (toolset,) = parsed("Toolset", spec).resources
        assert isinstance(toolset, Toolset)
    command = "commands:\n- name: uptime\n  description: How long.\n  command: uptime -p\n  command_desc: Options."
    (toolset,) = parsed("Toolset", command).resources
    assert isinstance(toolset, Toolset)
    assert toolset.spec.commands[0].command_desc == "Options."


def test_a_namespace_has_one_quota_of_one_name() -> None:
    (quota,) = parsed("Quota", "maxTokensPerDay: 100000\nmaxCostPerDay: 5\nwhenSpent: wait", name="default").resources
    assert isinstance(quota, Quota)
    assert problems("Quota", "weight: 2") == ["3: metadata.name: a namespace has one Quota, and its name is 'default'"]
    (problem,) = problems("Quota", "tokensPerMinute: 0", name="default")
    assert problem.startswith("4: spec: tokensPerMinute is 0; it must be more than 0")


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("toolsets: [{name: shell}, {name: shell}]", "7: spec.toolsets[1].name: 'shell' is in toolsets twice"),
        ("mcpServers:\n- {name: a}\n- {name: a}", "9: spec.mcpServers[1].name: 'a' is in mcpServers twice"),
        ("toolsets: [{name: shell, resources: true}]", "only MCP servers have resources"),
        ("toolsets: [{name: Shell}]", "spec.toolsets[0].name"),
        ("fallbacks: [{llmRef: {name: main}}]", "is the agent's own LLM"),
        ("fallbacks:\n- llmRef: {name: spare}\n  on: []", "9: spec.fallbacks[0].on: names no failure"),
        ("fallbacks:\n- {llmRef: {name: spare}, on: [rateLimit]}", "did you mean rateLimited?"),
        ("context: {whenFull: forget}", "'forget' is not one of fail, summarize, truncateToolResults"),
        ("context: {threshold: 7}", "threshold is 7"),
        (
            "responseFormat: {schema: {type: objec}}",
            "7: spec.responseFormat.schema: is not a JSON Schema that can be used",
        ),
        ("responseFormat: {name: a b, schema: {}}", "must be letters, digits, _ and -"),
        ("responseFormat: {schem: {}}", "7: spec.responseFormat.schem: unknown field; did you mean schema?"),
        ("mcpServers: [{name: a, tool: [b]}]", "spec.mcpServers[0].tool: unknown field; did you mean tools?"),
    ],
)
def test_an_agent_that_contradicts_itself_is_refused_with_its_place(spec: str, problem: str) -> None:
    found = problems("Agent", AGENT + spec)
    assert any(problem in one for one in found), found


def test_an_agent_with_everything_is_read() -> None:
    spec = """
        mcpServers: [{name: git, tools: [log, show_*], resources: true, prompts: true}]
        toolsets: [{name: shell}, {name: files, tools: [read]}]
        fallbacks: [{llmRef: {name: spare}, on: [rateLimited, overloaded]}]
        responseFormat: {schema: {type: object, properties: {answer: {type: string}}}}
        context: {whenFull: summarize, threshold: 0.8}
        """
    assert len(parsed("Agent", AGENT + textwrap.dedent(spec)).resources) == 1


@pytest.mark.parametrize(
    ("kind", "spec", "problem"),
    [
        ("LLM", "provider: openai\nlimits: {tokensPerMinute: -1}", "tokensPerMinute is -1; it must be more than 0"),
        ("LLM", "provider: openai\nlimits: {tokenPerMinute: 1}", "did you mean tokensPerMinute"),
        ("LLM", "provider: openai\ntoolCalling: none", "'none' is not one of native, text"),
        (
            "LLM",
            "provider: openai\nparameters: {contextTokens: 0}",
            "spec.parameters.contextTokens: must be at least 1",
        ),
        ("LLM", "provider: openai\nparameters: {contextTokens: 100, maxTokens: 100}", "has no room for a question"),
        ("LLM", "provider: openai\nparameters: {timeoutSeconds: 0}", "timeoutSeconds: must be more than 0"),
        ("LLM", "provider: anthropic\nanthropic: {thinkingBudgetTokens: 5}", "must be at least 1024, not 5"),
        ("MCPServer", "transport: sse", "spec.url: url is required for sse transport"),
        ("MCPServer", "transport: sse\nurl: ftp://x", "must begin with http:// or https://"),
        (
            "MCPServer",
            "transport: stdio\ncommand: x\nbearerFrom: {secretKeyRef: {name: a, key: b}}",
            "is for servers that are reached over http",
        ),
        (
            "MCPServer",
            f"transport: http\nurl: https://x\nbearerFrom: {KEY}\noauth: {{clientId: c, clientSecretFrom: {KEY}}}",
            "only one of bearerFrom and oauth can be given",
        ),
    ],
)
def test_a_spec_of_a_server_or_model_that_contradicts_itself_is_refused(kind: str, spec: str, problem: str) -> None:
    found = problems(kind, spec)
    assert any(problem in one for one in found), found


PNG = "iVBORw0KGgo="


def test_a_conversation_with_images_is_read_in_both_forms() -> None:
    spec = f"""
        agentName: helper
        priority: high
        responseFormat: {{schema: {{type: object}}}}
        contextWindow:
        - role: user
          content:
          - {{type: text, text: "What is this?"}}
          - {{type: image, mediaType: image/png, data: {PNG}}}
          - {{type: image_url, image_url: {{url: "data:image/png;base64,{PNG}", detail: high}}}}
          - {{type: image_url, image_url: {{url: https://images.example/cat.jpg}}}}
        - role: assistant
          content: Let me look closer.
          toolCalls: [{{id: c1, type: function, function: {{name: zoom__in, arguments: "{{}}"}}}}]
        - role: tool
          toolCallId: c1
          content: [{{type: text, text: closer}}, {{type: image, url: https://images.example/closer.png}}]
        """
    (submission,) = parsed("Task", spec).submissions
    request = submission.request
    assert request.priority == "high"
    assert request.response_format is not None
    pixel = ImagePart(media_type="image/png", data=PNG)
    assert request.context_window is not None
    assert request.context_window[0] == UserMessage(
        content=(TextPart(text="What is this?"), pixel, pixel, ImagePart(url="https://images.example/cat.jpg"))
    )
    closer = ImagePart(url="https://images.example/closer.png")
    assert request.context_window[2] == ToolMessage(tool_call_id="c1", content="closer", images=(closer,))


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("{role: user, content: [{type: image, data: AAAA}]}", "mediaType is ''; it must be one of image/png"),
        ("{role: user, content: [{type: image}]}", "an image has either data (base 64, with mediaType) or url"),
        ("{role: user, content: [{type: image, uri: https://x}]}", "content[0].uri: unknown field; did you mean url?"),
        ("{role: user, content: [{type: video, url: https://x}]}", "'video'"),
        (
            "{role: user, content: [{type: image_url, image_url: {url: 'file:///etc/passwd'}}]}",
            "is not an http or https",
        ),
        ("{role: system, content: [{type: image, url: https://x}]}", "a message of role system cannot have images"),
    ],
)
def test_a_part_that_is_none_is_refused_with_its_place(message: str, problem: str) -> None:
    user = "{role: user, content: hi}"
    found = problems("Task", f"agentName: helper\ncontextWindow:\n- {user}\n- {message}")
    assert any(problem in one and one.startswith("8:") for one in found), found
