"""`farkernel kernelspec remove`."""

from farkernel.provisioners.cli.kernelspec_places import (
    AsJson,
    Name,
    OfPrefix,
    OfSysPrefix,
    OfUser,
    Yes,
    chosen,
    make_sure,
    tell,
)


def remove(
    name: Name,
    yes: Yes = False,
    user: OfUser = False,
    sys_prefix: OfSysPrefix = False,
    prefix: OfPrefix = None,
    as_json: AsJson = False,
) -> None:
    """Remove a kernelspec of farkernel's; no other's."""
    from farkernel.kernelspecs import install  # noqa: PLC0415  (loads Jupyter)

    spec = chosen(name, user=user, sys_prefix=sys_prefix, prefix=prefix)
    make_sure(f"Remove {spec.display_name} ({spec.folder})?", spec.folder, yes=yes)
    install.remove(spec)
    others = [other for other in install.installed() if other.name == spec.name]
    warnings = [f"Jupyter takes {other.name} from {other.folder} now." for other in others]
    tell(f"Removed {spec.folder}", spec.folder, warnings=warnings, as_json=as_json)
