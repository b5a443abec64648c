"""From pictures whose unsafe patches are known to anchors, their thresholds, and the attention where they find best.

samples      prompts sampled once, so that masks of their pictures can be made
collecting   sampled again with their masks: anchors, folded as they stream by
judging      how well anchors tell held-out patches, and the thresholds that follow
bundling     all of that as a bundle
search       which attention, which step: ranked by how well a patch is told
picture      figures of every block and step, for people
"""
