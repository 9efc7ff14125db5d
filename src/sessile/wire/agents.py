"""The agent document: what a caller sends, and what an answer shows."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from sessile.wire.ids import KEY_PATTERN, Key, Name, Timestamp
from sessile.wire.limits import MAX_DESCRIPTION_CHARS, MAX_KEY_CHARS, MAX_TEMPLATE_CHARS
from sessile.wire.tool_configurations import ToolConfiguration

Description = Annotated[str, Meta(max_length=MAX_DESCRIPTION_CHARS)]
StepName = Annotated[str, Meta(min_length=1, max_length=255)]
_STEP_NAMES = Meta(extra_json_schema={"propertyNames": {"minLength": 1, "maxLength": 255}})
_CONFIGURATION_NAMES = Meta(extra_json_schema={"propertyNames": {"pattern": KEY_PATTERN, "maxLength": MAX_KEY_CHARS}})
TemplateType = Literal["velocity", "text"]
Template = Annotated[str, Meta(max_length=MAX_TEMPLATE_CHARS)]
Metadata = dict[str, Any]


class RetryConfiguration(Struct, forbid_unknown_fields=True):
    """How a failed model call is tried again, before its first delta only. Times are milliseconds."""

    enabled: bool = True
    max_retries: Annotated[int, Meta(ge=0, le=10)] = 3
    initial_backoff_ms: Annotated[int, Meta(ge=100, le=60_000)] = 1_000
    max_backoff_ms: Annotated[int, Meta(ge=1_000, le=300_000)] = 30_000
    backoff_factor: Annotated[float, Meta(ge=1, le=10)] = 2.0


class AgentModel(Struct, forbid_unknown_fields=True):
    """The model of an agent: an alias of the server's configuration, or `provider:model`."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    parameters: dict[str, Any] = field(default_factory=dict)
    retry_configuration: RetryConfiguration = field(default_factory=RetryConfiguration)


class AgentSkill(Struct, forbid_unknown_fields=True):
    """A named block of instructions that a model can load. Kept; not offered yet."""

    description: Annotated[str, Meta(max_length=500)]
    content: Annotated[str, Meta(max_length=50_000)]
    when_to_use: Annotated[str, Meta(max_length=500)] | UnsetType = UNSET


class CompactionConfig(Struct, forbid_unknown_fields=True):
    """When and how a long session is summarised."""

    enabled: bool = True
    threshold_percent: Annotated[int, Meta(ge=50, le=95)] = 80
    keep_recent_inputs: Annotated[int, Meta(ge=1)] = 1
    compaction_message: Annotated[str, Meta(max_length=10_000)] | UnsetType = UNSET
    tool_event_policy: Literal["exclude", "include_outputs", "include_all"] = "include_outputs"


class ToolOutputOffloading(Struct, forbid_unknown_fields=True):
    """What happens to large tool outputs: they are cut; by the mode `artifact` all of one becomes a file."""

    enabled: bool | UnsetType = UNSET
    mode: Literal["artifact", "truncate"] | UnsetType = UNSET
    context_percentage: Annotated[float, Meta(ge=0.01, le=1)] | UnsetType = UNSET
    max_threshold_bytes: Annotated[int, Meta(ge=1024)] | UnsetType = UNSET
    min_threshold_bytes: Annotated[int, Meta(ge=1024)] | UnsetType = UNSET
    headroom_percentage: Annotated[float, Meta(ge=0.01, le=1)] | UnsetType = UNSET


class InlineInstruction(Struct, tag_field="type", tag="inline", forbid_unknown_fields=True):
    """An instruction written in the agent document."""

    name: Name
    template: Template
    description: str | UnsetType = UNSET
    template_type: TemplateType | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class ReferenceInstruction(Struct, tag_field="type", tag="reference", forbid_unknown_fields=True):
    """An instruction kept elsewhere. Kept; not acted on yet."""

    id: Annotated[str, Meta(pattern=r"^ins_[0-9a-zA-Z_-]+\Z")]
    version: Annotated[int, Meta(ge=1)] | UnsetType = UNSET


StepInstruction = InlineInstruction | ReferenceInstruction


class DefaultOutputParser(Struct, tag_field="type", tag="default", forbid_unknown_fields=True):
    """Plain text output."""


class JsonSchemaSpec(Struct, forbid_unknown_fields=True):
    """A named JSON schema."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]+\Z", min_length=1)]
    schema: dict[str, Any]
    description: str | UnsetType = UNSET
    strict: bool | UnsetType | None = UNSET


class StructuredOutputParser(Struct, tag_field="type", tag="structured", forbid_unknown_fields=True):
    """Output that follows a JSON schema: acted on in the first step."""

    json_schema: JsonSchemaSpec


OutputParser = DefaultOutputParser | StructuredOutputParser


class TemplatedReminder(Struct, tag_field="type", tag="templated", forbid_unknown_fields=True):
    """A text repeated to the model now and then. Kept; not acted on yet."""

    template: Template
    hooks: Annotated[list[Literal["input_message", "tool_output"]], Meta(min_length=1)]
    template_type: TemplateType | UnsetType = UNSET
    fire_every: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    skip_first: Annotated[int, Meta(ge=0)] | UnsetType = UNSET


class GlossaryExpansionReminder(Struct, tag_field="type", tag="glossary_expansion", forbid_unknown_fields=True):
    """A glossary reminder. Kept; not acted on."""

    glossary_key: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_=\-]+\Z", min_length=1, max_length=50)]


Reminder = TemplatedReminder | GlossaryExpansionReminder


class NextStep(Struct, forbid_unknown_fields=True):
    """A step that may follow, and when."""

    step_name: str
    condition: str | UnsetType = UNSET


class AgentStep(Struct, kw_only=True, forbid_unknown_fields=True):
    """What an agent is told while it is in one step."""

    type: str | UnsetType = UNSET
    instructions: list[StepInstruction] = field(default_factory=list)
    output_parser: OutputParser = field(default_factory=DefaultOutputParser)
    reminders: list[Reminder] | UnsetType = UNSET
    next_steps: list[NextStep] | UnsetType = UNSET
    allowed_tools: list[str] | UnsetType = UNSET
    allowed_skills: list[str] | UnsetType = UNSET
    reentry_step: str | UnsetType = UNSET


class FirstAgentStep(AgentStep, kw_only=True, forbid_unknown_fields=True):
    """The step a session starts in."""

    name: StepName = "first_step"


class CreateAgentRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """A whole agent document. `tool_configurations` entries that are null are dropped."""

    key: Key | UnsetType = UNSET
    name: Name
    description: Description | UnsetType | None = UNSET
    tool_configurations: Annotated[dict[str, ToolConfiguration | None], _CONFIGURATION_NAMES] = field(
        default_factory=dict
    )
    skills: dict[str, AgentSkill | None] | UnsetType = UNSET
    model: AgentModel
    first_step: FirstAgentStep | UnsetType = UNSET
    first_step_name: StepName | UnsetType = UNSET
    steps: Annotated[dict[str, AgentStep], _STEP_NAMES] | UnsetType = UNSET
    metadata: Metadata = field(default_factory=dict)
    enabled: bool = True
    compaction: CompactionConfig | UnsetType = UNSET
    tool_output_offloading: ToolOutputOffloading | UnsetType = UNSET


class UpdateAgentStep(Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields of a step to change; null sets a field back to its default."""

    type: str | UnsetType = UNSET
    instructions: list[StepInstruction] | UnsetType | None = UNSET
    output_parser: OutputParser | UnsetType = UNSET
    reminders: list[Reminder] | UnsetType | None = UNSET
    next_steps: list[NextStep] | UnsetType | None = UNSET
    allowed_tools: list[str] | UnsetType | None = UNSET
    allowed_skills: list[str] | UnsetType | None = UNSET
    reentry_step: str | UnsetType | None = UNSET


class UpdateFirstAgentStep(UpdateAgentStep, kw_only=True, forbid_unknown_fields=True):
    """The fields of the first step to change."""

    name: StepName | UnsetType = UNSET


class UpdateAgentRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields of an agent to change. PROTOCOL.md says how maps are merged."""

    name: Name | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    tool_configurations: Annotated[dict[str, ToolConfiguration | None], _CONFIGURATION_NAMES] | UnsetType | None = UNSET
    skills: dict[str, AgentSkill | None] | UnsetType | None = UNSET
    model: AgentModel | UnsetType = UNSET
    first_step: UpdateFirstAgentStep | UnsetType = UNSET
    first_step_name: StepName | UnsetType = UNSET
    metadata: Metadata | UnsetType | None = UNSET
    enabled: bool | UnsetType | None = UNSET
    compaction: CompactionConfig | UnsetType | None = UNSET
    tool_output_offloading: ToolOutputOffloading | UnsetType | None = UNSET
    steps: Annotated[dict[str, UpdateAgentStep | None], _STEP_NAMES] | UnsetType | None = UNSET


class ShownAgentStep(AgentStep, kw_only=True):
    """A step as an answer shows it."""

    instructions: list[StepInstruction]
    output_parser: OutputParser


class ShownFirstAgentStep(ShownAgentStep, kw_only=True):
    """The first step as an answer shows it."""

    name: StepName


class Agent(Struct, kw_only=True):
    """An agent as an answer shows it. `id` equals `key`."""

    id: Key
    key: Key
    name: Name
    description: Description | UnsetType = UNSET
    tool_configurations: Annotated[dict[str, ToolConfiguration | None], _CONFIGURATION_NAMES]
    skills: dict[str, AgentSkill | None] | UnsetType = UNSET
    model: AgentModel
    first_step: ShownFirstAgentStep
    first_step_name: StepName
    steps: Annotated[dict[str, ShownAgentStep], _STEP_NAMES] | UnsetType = UNSET
    metadata: Metadata
    enabled: bool
    compaction: CompactionConfig | UnsetType = UNSET
    tool_output_offloading: ToolOutputOffloading | UnsetType = UNSET
    created_at: Timestamp
    updated_at: Timestamp


class ListMetadata(Struct):
    """`page_key` asks for the next page; it is absent on the last one."""

    page_key: str | UnsetType = UNSET


class ListAgentsResponse(Struct):
    """A page of agents, newest first."""

    agents: list[Agent]
    metadata: ListMetadata
