"""What the nodes' schemas offer of training, steering and other work: options and defaults, written out.

The host asks for schemas when it starts; importing the modules that these come from would make it wait.
tests/host/test_offered.py compares each with its origin.
"""

from __future__ import annotations

# Files and folders.
PROMPT_SUFFIXES = (".jsonl", ".csv", ".txt")
PAIR_SUFFIXES = (".jsonl", ".csv", ".parquet")
VECTOR_ENDINGS = (".gguf", ".safetensors")
RECORDING_MANIFEST = "manifest.json"
SMOLLM2 = "SmolLM2-135M-Instruct"

# Steering.
GATES = ("token", "image", "always", "both")
FORMS = ("default", "paper")
TOPK = ("auto", "exact", "threshold", "relu")
DIRECTION_OPERATORS = ("project_out", "add", "clamp")
WEIGHTINGS = ("gated", "given", "uniform")

# Restricting the flow of attention.
FLOW_TASKS = ("generation", "editing", "both")
FLOW_SCORES = ("whitened", "cosine", "dot")
FLOW_THRESHOLDS = ("calibrated", "published", "given")
FLOW_FORMS = ("renormalised", "unrenormalised")

# Families of models: those with sites for autoencoders, and those with text that directions can steer.
SAE_FAMILIES = ("flux", "sd3")
TEXT_FAMILIES = (
    "flux", "sd3", "flux2", "qwen_image", "z_image", "lumina2", "hunyuan_video", "wan", "ltx",
)  # fmt: skip

# Autoencoders of other projects.
AUTO = "auto"
FORMATS = ("saelens", "sparsify", "dictionary_learning", "openai", "sdxl-unbox", "finebooru", "qwen-scope")
ORIENTATIONS = (
    AUTO,
    "encoder N×d, decoder N×d",
    "encoder N×d, decoder d×N",
    "encoder d×N, decoder N×d",
    "encoder d×N, decoder d×N",
)

# Recording and training.
LABELS = ("unsafe", "safe", "benign")
DTYPES = ("bfloat16", "float16", "float32")
ACTIVATIONS = ("batchtopk", "topk", "jumprelu")
PRECISIONS = ("float32", "bfloat16")
ROUTE_OPERATORS = ("repel", "blend")
SELECTION_METHODS = ("score", "flips")
LESSONS = ("pairs", "safe side")
ADAPTATION_METHODS = ("auto", "closed form", "steps")

# Directions.
MAPS = ("ridge", "procrustes", "mlp")
FLOOR = 0.1
QUANTILE = 0.99


class Flow:
    """Weights', Noise's and RestrictFlow's defaults."""

    core = 0.2
    ring = 0.4
    safe = 1.05
    noise = 0.999
    startup = 0.36
    end = 0.36
    noise_end = 1.0
    spread = 1.0


class Training:
    """TrainingConfig's defaults."""

    activation = "batchtopk"
    expansion = 16
    k = 32
    steps = 5000
    batch = 4096
    precision = "float32"


class Routing:
    """The published Weights."""

    semantic = 0.25
    binding = 0.35
    stability = 0.25
    cost = 0.15


class Selecting:
    """SelectionRule's defaults."""

    method = "score"
    count = 16
    ratio = 4.0
    least = 0.05
    held_out = 0.25


class Adaptation:
    """AdaptationConfig's defaults."""

    stability = 1.0
    weight = 0.01
    replay = 0.2
    steps = 1000
    batch = 2048
    rate = 0.003


class Gates:
    """GateRule's defaults."""

    quantile = 0.999
    margin = 1.25
    folds = 5
