"""Two loader nodes for the demo's small models. Only the demo and the benchmarks link this folder into a host."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from steerdit.benchmarks.emoji_scenes import in_host


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


class Extension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [EmojiScenesTextEncoder, EmojiScenesCodec]


async def comfy_entrypoint() -> Extension:
    return Extension()
