"""Whether the site has a policy, and whether it can be used."""

from farkernel.provisioners.cli.findings import Finding, ok, problem
from farkernel.provisioners.errors import PolicyUnusable
from farkernel.provisioners.policy import Policy
from farkernel.provisioners.policy_file import site_policy


def check_policy() -> list[Finding]:
    """Look at the site's policy; nothing is said where there is none."""
    try:
        policy = site_policy()
    except PolicyUnusable as error:
        return [problem("policy", f"{error.what}\n{error.said}".rstrip(), error.hint)]
    return [] if policy is None else [ok("policy", f"{policy.source}: {', '.join(_words(policy.policy)) or 'empty'}")]


def _words(policy: Policy) -> list[str]:
    return [
        *(["defaults"] if policy.defaults else []),
        *(f"required {key}" for key in policy.required),
        *(policy.shown("allowed", key) for key in sorted(policy.allowed.model_fields_set)),
        *(policy.shown("maximum", key) for key in sorted(policy.maximum.model_fields_set)),
    ]
