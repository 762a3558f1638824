"""The network: any timm backbone, split into a frozen part and a trained head, beside a metadata branch."""
