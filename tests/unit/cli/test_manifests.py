from __future__ import annotations

import textwrap
from decimal import Decimal

import msgspec
import pytest

from schemas.messages import AssistantMessage, ToolCall, ToolMessage, UserMessage
from schemas.resources import API_VERSION, KINDS, LLM, Agent, AgentSpec, MCPServer
from services.cli.manifests import BadManifests, Parsed, parse


def parsed(text: str, *, namespace: str | None = None) -> Parsed:
    return parse([("x.yaml", textwrap.dedent(text))], namespace=namespace)


def refusal(text: str, *, namespace: str | None = None) -> str:
    with pytest.raises(BadManifests) as caught:
        parsed(text, namespace=namespace)
    return str(caught.value)


def test_several_documents_become_resources_in_the_order_to_apply_them() -> None:
    found = parsed("""
        apiVersion: holdfast.dev/v1
        kind: Agent
        metadata: {name: helper}
        spec: {llmRef: {name: fast}, system: Help.}
        ---
        ---
        apiVersion: holdfast.dev/v1
        kind: LLM
        metadata: {name: fast, labels: {tier: "1"}}
        spec: {provider: openai, parameters: {model: m, temperature: 0.5}}
        """)
    llm, agent = found.resources
    assert isinstance(llm, LLM)
    assert llm.spec.parameters.temperature == 0.5
    assert llm.metadata.labels == {"tier": "1"}
    assert isinstance(agent, Agent)
    assert agent.metadata.namespace == "default"
    assert found.notes == ()


def test_the_predecessors_manifests_are_read_as_they_are() -> None:
    found = parsed("""
        apiVersion: acp.humanlayer.dev/v1alpha1
        kind: LLM
        metadata:
          name: gpt
          creationTimestamp: null
          resourceVersion: "12"
          uid: 0af76519-16cd
        spec:
          provider: openai
          apiKeyFrom: {secretKeyRef: {name: openai, key: OPENAI_API_KEY}}
          parameters: {temperature: "0.7", topP: "0.95", maxTokens: 100, topK: 40}
          openai: {organization: org, apiType: OPEN_AI}
        status: {ready: true, status: Ready}
        ---
        apiVersion: acp.humanlayer.dev/v1alpha1
        kind: MCPServer
        metadata: {name: fetch}
        spec:
          transport: stdio
          command: uvx
          args: [mcp-server-fetch]
          env:
            - {name: A, value: b}
            - {name: TOKEN, valueFrom: {secretKeyRef: {name: s, key: k}}}
          resources: {limits: {cpu: 200m, memory: 1Gi}, requests: {cpu: 1}}
          approvalContactChannel: {name: ops}
        ---
        apiVersion: acp.humanlayer.dev/v1alpha1
        kind: Agent
        metadata: {name: helper}
        spec:
          llmRef: {name: gpt}
          system: Help.
          mcpServers: [{name: fetch}]
          humanContactChannels: [{name: ops}]
          subAgents: [{name: other}]
          description: Helps.
        ---
        apiVersion: acp.humanlayer.dev/v1alpha1
        kind: ContactChannel
        metadata: {name: ops}
        spec:
          type: slack
          channelApiKeyFrom: {secretKeyRef: {name: s, key: k}}
          channelId: ch1
          slack: {channelOrUserID: C01ABC, contextAboutChannelOrUser: on call, allowedResponderIDs: [U1]}
        """)
    llm, server, channel, agent = found.resources
    assert [type(resource).__name__ for resource in (llm, server, channel, agent)] == [
        "LLM",
        "MCPServer",
        "ContactChannel",
        "Agent",
    ]
    assert {resource.api_version for resource in found.resources} == {API_VERSION}
    assert isinstance(server, MCPServer)
    assert server.spec.args == ("mcp-server-fetch",)
    assert found.notes == ("x.yaml:26: spec.resources has no effect yet: limit the tool-executor's process instead",)


def test_a_predecessors_task_with_a_conversation_becomes_a_request() -> None:
    found = parsed("""
        apiVersion: acp.humanlayer.dev/v1alpha1
        kind: Task
        metadata: {name: t1, namespace: prod, labels: {a: b}}
        spec:
          agentRef: {name: helper}
          baseURL: https://example.com
          threadID: "7"
          channelTokenFrom: {name: token, key: k}
          contextWindow:
            - {role: user, content: Fetch it.}
            - role: assistant
              content: ""
              toolCalls:
                - {id: c1, type: function, function: {name: fetch__fetch, arguments: '{"url": "x"}'}}
            - {role: tool, toolCallId: c1, content: done}
        """)
    (submission,) = found.submissions
    assert submission.namespace == "prod"
    request = submission.request
    assert (request.name, request.agent_name, request.labels) == ("t1", "helper", {"a": "b"})
    assert request.context_window == (
        UserMessage(content="Fetch it."),
        AssistantMessage(tool_calls=(ToolCall(id="c1", name="fetch__fetch", arguments='{"url": "x"}'),)),
        ToolMessage(tool_call_id="c1", content="done"),
    )
    assert [note.split(": ", 1)[1] for note in found.notes] == [
        "spec.baseURL has no effect yet",
        "spec.channelTokenFrom has no effect yet",
    ]
    assert request.thread_id == "7"


def test_a_task_may_name_its_agent_as_a_request_does() -> None:
    found = parsed("""
        apiVersion: holdfast.dev/v1
        kind: Task
        metadata: {name: t1}
        spec: {agentName: helper, userMessage: Hello}
        """)
    assert found.submissions[0].request.agent_name == "helper"


def test_limits_of_a_task_are_exact() -> None:
    found = parsed("""
        apiVersion: holdfast.dev/v1
        kind: Task
        metadata: {name: t1}
        spec:
          agentRef: {name: helper}
          userMessage: Hello
          limits: {maxTurns: 3, maxCost: 0.10, deadlineSeconds: 60}
        """)
    assert found.submissions[0].request.limits.max_cost_usd == Decimal("0.1")


def test_every_problem_of_a_file_is_named_with_its_place() -> None:
    said = refusal("""\
        apiVersion: holdfast.dev/v1
        kind: Agent
        metadata:
          name: helper
        spec:
          llmReff:
            name: gpt
          system: 5
        ---
        apiVersion: holdfast.dev/v1
        kind: MCPServer
        metadata:
          name: git
        spec:
          transport: sdio
          args:
            - 8080
          env:
            - nam: x
        """)
    assert said == textwrap.dedent("""\
        x.yaml:6: spec.llmReff: unknown field; did you mean llmRef?
              5 | spec:
            > 6 |   llmReff:
              7 |     name: gpt
        x.yaml:8: spec.system: must be text, not a whole number; put it in quotes: "5"
              7 |     name: gpt
            > 8 |   system: 5
              9 | ---
        x.yaml:15: spec.transport: 'sdio' is not one of http, sse, stdio; did you mean stdio?
              14 | spec:
            > 15 |   transport: sdio
              16 |   args:
        x.yaml:17: spec.args[0]: must be text, not a whole number; put it in quotes: "8080"
              16 |   args:
            > 17 |     - 8080
              18 |   env:
        x.yaml:19: spec.env[0].nam: unknown field; did you mean name?
              18 |   env:
            > 19 |     - nam: x""")


def test_a_field_that_is_like_no_other_is_answered_with_all_there_are() -> None:
    said = refusal("""\
        apiVersion: holdfast.dev/v1
        kind: Agent
        metadata: {name: helper}
        spec: {llmRef: {name: gpt}, system: x, zzz: 1}
        """)
    fields = ", ".join(sorted(field.encode_name for field in msgspec.structs.fields(AgentSpec)))
    assert said.splitlines()[0] == f"x.yaml:4: spec.zzz: unknown field; spec has {fields}"


def test_the_predecessors_only_fields_are_unknown_in_our_version() -> None:
    said = refusal("""\
        apiVersion: holdfast.dev/v1
        kind: Task
        metadata: {name: t}
        spec: {agentRef: {name: a}, userMessage: hi, baseURL: "1"}
        """)
    assert "x.yaml:4: spec.baseURL: unknown field" in said


@pytest.mark.parametrize("version", ["holdfast.dev/v1", "acp.humanlayer.dev/v1alpha1"])
def test_a_task_may_have_a_thread_of_its_callers(version: str) -> None:
    text = """\
        apiVersion: VERSION
        kind: Task
        metadata: {name: t}
        spec: {agentRef: {name: a}, userMessage: hi, threadID: <ID>}
        """.replace("VERSION", version)
    (submission,) = parsed(text.replace("<ID>", '"1700000000.000100"')).submissions
    assert submission.request.thread_id == "1700000000.000100"
    said = refusal(text.replace("<ID>", '"a\\tb"'))
    assert "x.yaml:4: spec.threadID: threadID 'a\\tb' must be printable text" in said


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ("kind: Agen\napiVersion: holdfast.dev/v1", "x.yaml:1: kind: 'Agen' is not a kind; known are Quota, "),
        ("apiVersion: holdfast.dev/v1", f"x.yaml:1: kind: required; one of {', '.join(KINDS)}, Task"),
        ("kind: Agent\napiVersion: v2", "x.yaml:2: apiVersion: must be holdfast.dev/v1 or acp.humanlayer.dev/v1alpha1"),
        ("kind: ToolCall\napiVersion: x", "x.yaml:1: kind: a ToolCall is made by the system: read it with"),
        ("- 1", "x.yaml:1: a manifest is a mapping with apiVersion, kind, metadata and spec"),
        ("a: [1\nb: 2", "x.yaml:2: not YAML: while parsing a flow sequence, expected ',' or ']', but got ':'"),
        ("a: 1\nb: 2\na: 3", "x.yaml:3: a: given twice; first on line 1"),
        ("a: !!python/name:os.system x", "x.yaml:1: a: tag:yaml.org,2002:python/name:os.system has no meaning here"),
        ("a: \x01", "x.yaml:1: not YAML: unacceptable character"),
    ],
)
def test_what_is_no_manifest_is_said_to_be_none(document: str, line: str) -> None:
    assert refusal(document).splitlines()[0].startswith(line)


def test_a_secret_is_refused_with_how_to_give_it_and_without_its_value() -> None:
    said = refusal("""\
        apiVersion: v1
        kind: Secret
        metadata: {name: openai}
        stringData:
          OPENAI_API_KEY: sk-verysecret
        """)
    assert "$HOLDFAST_SECRETS_DIR/openai/OPENAI_API_KEY" in said
    assert "sk-verysecret" not in said


_CHANNEL = """
apiVersion: acp.humanlayer.dev/v1alpha1
kind: ContactChannel
metadata: {name: c}
spec:
"""
_KEY = "{secretKeyRef: {name: s, key: k}}"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{type: email, email: {address: a@b.co}}", "either apiKeyFrom or channelApiKeyFrom must be provided"),
        (
            f"{{type: email, email: {{address: a@b.co}}, apiKeyFrom: {_KEY}, channelApiKeyFrom: {_KEY}, channelId: x}}",
            "apiKeyFrom and channelApiKeyFrom are mutually exclusive",
        ),
        (
            f"{{type: email, email: {{address: a@b.co}}, channelApiKeyFrom: {_KEY}}}",
            "channelId is required when channelApiKeyFrom is set",
        ),
        (
            f"{{type: email, email: {{address: a@b.co}}, apiKeyFrom: {_KEY}, channelId: x}}",
            "channelId can only be used with channelApiKeyFrom",
        ),
        (f"{{type: slack, apiKeyFrom: {_KEY}}}", "slackConfig is required for slack channel type"),
        (f"{{type: email, apiKeyFrom: {_KEY}}}", "emailConfig is required for email channel type"),
        (f"{{type: email, email: {{address: nobody}}, apiKeyFrom: {_KEY}}}", "invalid email address: 'nobody'"),
        (f"{{type: slack, slack: {{channelOrUserID: ops}}, apiKeyFrom: {_KEY}}}", "must be a Slack id"),
        (f"{{type: fax, apiKeyFrom: {_KEY}}}", "'fax' is not one of console, email, slack, webhook"),
    ],
)
def test_a_contact_channel_that_contradicts_itself_is_refused(spec: str, message: str) -> None:
    assert message in refusal(_CHANNEL + "  " + spec)


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("MCPServer", "{transport: stdio}", "spec.command: command is required for stdio transport"),
        ("MCPServer", "{transport: http}", "spec.url: url is required for http transport"),
        ("MCPServer", "{transport: http, url: localhost}", "spec.url: must begin with http:// or https://"),
        ("LLM", "{provider: scripted}", "spec: scripted configuration is required for scripted provider"),
        ("LLM", "{provider: vertex}", "spec: vertex configuration is required for vertex provider"),
        (
            "LLM",
            '{provider: openai, parameters: {temperature: "0.7abc"}}',
            "spec.parameters.temperature: must be a number from 0 to 2, not '0.7abc'",
        ),
        ("LLM", "{provider: openai, parameters: {maxTokens: 0}}", "spec.parameters.maxTokens: must be at least 1"),
        ("Agent", '{llmRef: {name: x}, system: ""}', "spec.system: must not be empty"),
        ("Agent", "{llmRef: {name: X Y}, system: s}", "spec.llmRef.name: name 'X Y' may hold only"),
        (
            "Agent",
            "{llmRef: {name: x}, system: s, limits: {maxTurns: 0}}",
            "spec.limits.maxTurns: must be more than 0, not 0",
        ),
        ("Task", "{userMessage: hi}", "spec.agentRef: required and missing"),
        ("Task", "{agentRef: {name: a}, agentName: a, userMessage: hi}", "spec.agentName: only one of agentRef and"),
        ("Task", "{agentName: A b, userMessage: hi}", "spec.agentName: name 'A b' may hold only"),
        ("Task", "{agentRef: {name: a}}", "spec: one of userMessage or contextWindow must be provided"),
        (
            "Task",
            "{agentRef: {name: a}, userMessage: x, contextWindow: [{role: user, content: x}]}",
            "spec: only one of userMessage or contextWindow can be provided",
        ),
        (
            "Task",
            "{agentRef: {name: a}, contextWindow: [{role: system, content: x}]}",
            "spec: contextWindow must contain at least one user message",
        ),
        (
            "Task",
            "{agentRef: {name: a}, contextWindow: [{role: robot, content: x}]}",
            "spec.contextWindow[0].role: 'robot' is not one of assistant, system, tool, user",
        ),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(kind: str, spec: str, message: str) -> None:
    said = refusal(f"apiVersion: holdfast.dev/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}")
    assert f"x.yaml:4: {message}" in said


def test_the_commands_namespace_is_for_manifests_without_one() -> None:
    text = """\
        apiVersion: holdfast.dev/v1
        kind: Agent
        metadata: {name: helper%s}
        spec: {llmRef: {name: x}, system: s}
        """
    assert parsed(text % "", namespace="prod").resources[0].metadata.namespace == "prod"
    assert "the manifest is for namespace 'dev' and the command for 'prod'" in refusal(
        text % ", namespace: dev", namespace="prod"
    )


def test_a_name_that_cannot_be_part_of_a_subject_is_refused() -> None:
    said = refusal("""\
        apiVersion: holdfast.dev/v1
        kind: Task
        metadata: {name: "a.b", namespace: "x y"}
        spec: {agentRef: {name: a}, userMessage: hi}
        """)
    assert "x.yaml:3: metadata.name: name 'a.b' may hold only letters, digits, '-' and '_'" in said
    assert "x.yaml:3: metadata.namespace: namespace 'x y' may hold only" in said


def test_the_same_resource_twice_is_refused() -> None:
    document = "apiVersion: holdfast.dev/v1\nkind: LLM\nmetadata: {name: a}\nspec: {provider: openai}\n"
    with pytest.raises(BadManifests, match=r"LLM .a. is also in one\.yaml:1"):
        parse([("one.yaml", document), ("two.yaml", document)])


def test_a_null_is_a_field_that_is_not_given() -> None:
    found = parsed("""\
        apiVersion: holdfast.dev/v1
        kind: MCPServer
        metadata: {name: a, labels: null}
        spec: {transport: stdio, command: x, args: null, resources: null}
        """)
    assert isinstance(found.resources[0], MCPServer)
    assert found.resources[0].spec.args == ()


def test_anchors_and_merges_are_read() -> None:
    found = parsed("""\
        apiVersion: holdfast.dev/v1
        kind: LLM
        metadata: {name: a}
        spec: &spec {provider: openai, parameters: {model: m}}
        ---
        apiVersion: holdfast.dev/v1
        kind: MCPServer
        metadata: {name: a}
        spec:
          <<: {transport: stdio}
          command: x
        """)
    assert isinstance(found.resources[1], MCPServer)
    assert found.resources[1].spec.transport == "stdio"


def test_a_document_that_unfolds_without_end_is_refused() -> None:
    levels = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))
    assert "more than 100000 values" in refusal(f"a0: &a0 [1, 1]\n{levels}")
    assert "64 levels" in refusal("a: &a [*a]")


def test_times_are_text_and_not_numbers_in_base_sixty() -> None:
    found = parsed("""\
        apiVersion: holdfast.dev/v1
        kind: MCPServer
        metadata: {name: a}
        spec: {transport: stdio, command: x, args: [10:30, 2026-01-01]}
        """)
    assert isinstance(found.resources[0], MCPServer)
    assert found.resources[0].spec.args == ("10:30", "2026-01-01")
