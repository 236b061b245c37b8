"""Why there is no kernel in an image, in words. No I/O."""

from __future__ import annotations

from farkernel.provisioners.containers.base import Container
from farkernel.provisioners.errors import ContainerFailed, KernelCommandMissing, KernelFailed


def image_failure(
    container: Container, exit_code: int, said: str, *, kernel: str, kernelspec: str, node: str = ""
) -> ContainerFailed | None:
    """Return the error of a kernel that could not be started in its image; None if that is not why.

    :param exit_code: of the container's command on the node, or of an srun that took no job
    :param said: what it printed
    :param kernel: its name as the user knows it
    :param kernelspec: its name as Jupyter knows it
    """
    trouble = container.explain(exit_code, said)
    if trouble is None:
        return None
    who = f'Kernel "{kernel}" (kernelspec {kernelspec})'
    where = f" on {node}" if node else ""
    what = f"{who} cannot run{where} in the image {container.request.image}: {trouble.sentence}."
    return ContainerFailed(what, said=said, hint=trouble.hint)


def in_image(error: KernelFailed, container: Container, *, kernelspec: str) -> KernelFailed:
    """Name the image in the error of a kernel that has not come up for a reason that its runtime does not know."""
    image = container.request.image
    if not image:
        return error
    what = f"{error.what.removesuffix('.')}. Its kernelspec is {kernelspec}, its image {image}."
    hint = f"`farkernel images check --kernel={kernelspec} --on-node` looks into its image."
    if not isinstance(error, KernelCommandMissing):  # the modules of the node are no cure
        hint = f"{hint} {error.hint}"
    return type(error)(what, said=error.said, hint=hint)
