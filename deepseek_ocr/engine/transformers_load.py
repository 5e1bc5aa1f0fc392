"""Loading DeepSeek-OCR-2 with transformers; the process of the engine does it, the daemon's own never.

Whatever goes wrong is one sentence with its remedy.
Left to others: which model may be loaded (`transformers_config.py`), reading pages with it (`transformers_process.py`).
Residual risk: on its way to a card the model is held in the memory of the host for a moment (6.8 GB).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deepseek_ocr.engine.transformers_config import V2_IDS, kind_of, native_config
from deepseek_ocr.errors import EngineStartError
from deepseek_ocr.guard import EXEMPT
from deepseek_ocr.prompt import CONTEXT_TOKENS, GROUNDING_TOKEN, IMAGE_TOKEN


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can read."""

    network: Any
    processor: Any
    tokenizer: Any
    device: str
    context_tokens: int
    #: The ids of `guard.EXEMPT`.
    exempt: frozenset[int]


def load(model: str, device: str) -> Loaded:
    """The model on its device; raises `EngineStartError`."""
    import torch  # noqa: PLC0415 - not in the daemon's own process

    if device.startswith("cuda"):
        _check_cuda(torch, device)
    try:
        return _load(model, device)
    except EngineStartError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        if out_of_memory(error):
            message = (
                f"the model {model} does not fit into the memory of {device} ({reason}): free memory, or choose "
                f"another card with engine.gpu"
            )
        elif isinstance(error, OSError):  # what the hub's client raises for everything it cannot get
            message = (
                f"the model {model} can neither be found on this machine nor downloaded ({reason}): where there is a "
                f"network, run `hf download {V2_IDS[1]} --local-dir FOLDER`, and set engine.model to the folder"
            )
        else:
            message = (
                f"the model {model} cannot be loaded ({type(error).__name__}: {reason}): its files are damaged or do "
                f"not belong together, download {V2_IDS[1]} again"
            )
        raise EngineStartError(message) from error


def _check_cuda(torch: Any, device: str) -> None:
    if not torch.cuda.is_available():
        raise EngineStartError(
            f"the transformers engine shall run on {device}, but torch {torch.__version__} cannot use a card here: "
            f'install torch with CUDA and the driver it needs, or set device = "cpu" under [engine.transformers]'
        )
    cards = torch.cuda.device_count()
    if int(device.partition(":")[2]) >= cards:
        raise EngineStartError(
            f"the transformers engine shall run on {device}, but torch sees only {cards} card(s), counted from 0: "
            f"correct engine.gpu"
        )


def _load(model: str, device: str) -> Loaded:
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    transformers.utils.logging.set_verbosity_error()  # the log is ours, one JSON object a line
    transformers.utils.logging.disable_progress_bar()
    found, _ = transformers.PreTrainedConfig.get_config_dict(model)
    values = native_config(found) if kind_of(found, model) == "published" else found
    config = transformers.DeepseekOcr2Config.from_dict(values)
    # The tokenizer as its file says: the class that the published folder names would replace how it splits words.
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(model)
    tokenizer.padding_side = "left"  # all answers start at the same place
    ids = _token_ids(tokenizer, model, IMAGE_TOKEN, GROUNDING_TOKEN, *EXEMPT)
    config.image_token_id = ids[0]
    network, loading = transformers.DeepseekOcr2ForConditionalGeneration.from_pretrained(
        model,
        config=config,
        dtype=torch.bfloat16 if device.startswith("cuda") else torch.float32,
        use_safetensors=True,  # a pickle could run anything
        output_loading_info=True,
    )
    missing = sorted(loading["missing_keys"])
    if missing:  # they would be random numbers, and every page rubbish
        raise EngineStartError(
            f"the weights of {model} lack {len(missing)} tensors, {missing[0]} among them: download {V2_IDS[1]} again"
        )
    network.to(device).eval()
    # Greedy, whatever the folder says; the tokens are those of the tokenizer.
    network.generation_config = transformers.GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # Pillow's resizing, with which the model was trained; transformers prefers torchvision's, which differs a little.
    processor = transformers.DeepseekOcr2Processor(transformers.DeepseekOcr2ImageProcessorPil(), tokenizer)
    context = min(CONTEXT_TOKENS, config.text_config.max_position_embeddings)
    return Loaded(network, processor, tokenizer, device, context, frozenset(ids[-len(EXEMPT) :]))


def _token_ids(tokenizer: Any, model: str, *tokens: str) -> list[int]:
    """The ids of tokens that must be one token each; raises `EngineStartError` where one is not."""
    for role in ("bos_token", "eos_token", "pad_token"):
        if getattr(tokenizer, role) is None:
            raise EngineStartError(f"the tokenizer of {model} names no {role}: download {V2_IDS[1]} again")
    known = tokenizer.get_vocab()
    for token in tokens:
        if token not in known:
            raise EngineStartError(
                f"the tokenizer of {model} does not know {token}, so it is not that of DeepSeek-OCR-2: "
                f"download {V2_IDS[1]} again"
            )
    return [known[token] for token in tokens]


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: CUDA has a type for it, torch on the CPU only words."""
    words = str(error)
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words
