"""Nodes for the demo alone: loaders of its small models, and its judge as a maker of masks."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io
from torch import Tensor

from steerdit.benchmarks.emoji_scenes import in_host, weights


class EmojiScenesTextEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmojiScenes_TextEncoder",
            display_name="Emoji Scenes Text Encoder",
            category="SteerDiT/demo",
            description="all-MiniLM-L6-v2 as the text encoder of the emoji-scenes demo model.",
            inputs=[],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(in_host.text_encoder())


class EmojiScenesCodec(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmojiScenes_Codec",
            display_name="Emoji Scenes Codec",
            category="SteerDiT/demo",
            description="The linear codec between the demo model's latents and pictures.",
            inputs=[],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(in_host.LatentCodec())


class EmojiScenesUnsafeMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmojiScenes_UnsafeMask",
            display_name="Emoji Scenes Unsafe Mask",
            category="SteerDiT/demo",
            description="Where the demo's judge sees anything of a risk. With other models, take any node that marks "
            "what is unsafe.",
            inputs=[io.Image.Input("images")],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, images: Tensor) -> io.NodeOutput:
        from steerdit.benchmarks.emoji_scenes.masks import unsafe_masks
        from steerdit.benchmarks.emoji_scenes.oracle import Oracle

        oracle = Oracle.load(weights.path("oracle"))
        return io.NodeOutput(unsafe_masks(oracle, images[..., :3].float().cpu().movedim(-1, 1)))


class Extension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [EmojiScenesTextEncoder, EmojiScenesCodec, EmojiScenesUnsafeMask]


async def comfy_entrypoint() -> Extension:
    return Extension()
