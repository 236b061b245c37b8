"""What several subcommands of `farkernel kernelspec` say of a kernelspec that they have written."""

from typing import Any

import pytest

from farkernel.kernelspecs.check import check_spec
from farkernel.provisioners.policy_file import Found, in_force


def _spec(config: dict[str, Any], env: dict[str, Any]) -> dict[str, Any]:
    stanza = {"provisioner_name": "farkernel-slurm", "config": config}
    argv = ["/bin/sh", "{connection_file}"]
    names = {"display_name": "X", "language": "sh"}
    return {"argv": argv, **names, "env": env, "metadata": {"kernel_provisioner": stanza}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '[allowed]\nqos = ["debug"]\n',
            ['slurm.qos: the site\'s policy does not allow it: "premium": allowed.qos is debug'],
        ),
        ('[allowed]\naccount = ["m1"]\n', ['"m2": allowed.account is m1']),
        ("x =", ["no TOML"]),
        ('required = ["slurm.account"]\n', []),
    ],
)
def test_what_the_policy_refuses_is_a_warning(text: str, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Found(text)
    monkeypatch.setattr("farkernel.provisioners.effective.site_policy", lambda: in_force(policy, source="/policy"))
    spec = _spec({"slurm": {"qos": "premium"}}, {"SLURM_ACCOUNT": "m2"})
    check_spec(spec, source="k").refuse()
    warnings = "\n".join(check_spec(spec, source="k").remarks)
    assert all(words in warnings for words in told)
    assert bool(warnings) == bool(told)
