"""How weights reach a disk: the manifest, the download, the verification."""
