"""Make a tiny tokenizer and image processor, and prompts with them."""

from __future__ import annotations

# Its classes import torchvision at first use, which is after declare_torchvision_operators().
import transformers
from pictures import make_picture
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from .cases import IMAGE, Case
from .special_tokens import IMAGE_TOKENS, SPECIAL

TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
  {{- "<|im_start|>" + message["role"] + "\\n" -}}
  {%- if message["content"] is string -%}
    {{- message["content"] -}}
  {%- else -%}
    {%- for item in message["content"] -%}
      {{- "<image>" if item["type"] == "image" else item["text"] -}}
    {%- endfor -%}
  {%- endif -%}
  {{- "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
"""


def make_tokenizer(specials_last: bool) -> transformers.PreTrainedTokenizerFast:
    """One token per byte, and special tokens; it can add a BOS token, as the published ones do."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    order = letters + SPECIAL if specials_last else SPECIAL + letters
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(order)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    bos = "<|startoftext|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, order.index(bos))]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        extra_special_tokens=IMAGE_TOKENS,
    )


def make_processor(case: Case) -> transformers.Lfm2VlProcessor:
    image_processor = transformers.Lfm2VlImageProcessor(**{**IMAGE, **case.image})
    tokenizer = make_tokenizer(case.specials_last)
    return transformers.Lfm2VlProcessor(image_processor, tokenizer, chat_template=TEMPLATE)


def prepare(processor: transformers.Lfm2VlProcessor, messages: list[dict]) -> tuple[str, dict]:
    """Render messages; return the prompt's text and the model's inputs."""
    images, plain = [], []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            images += [make_picture(*item["picture"]) for item in content if "picture" in item]
            content = [{"type": "image"} if "picture" in item else item for item in content]
        plain.append({"role": message["role"], "content": content})
    text = processor.apply_chat_template(plain, add_generation_prompt=True, tokenize=False)
    inputs = processor(images=[images] if images else None, text=[text], return_tensors="pt")
    return text, dict(inputs)
