"""The package and its programs as a process sees them."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import click
import pytest
from click.testing import CliRunner
from waiting import PATIENCE_S

from mimo_runtime.cli.app import Commands


def test_importing_the_package_imports_nothing_else():
    heavy = ("numpy", "PIL", "tokenizers", "onnxruntime", "click", "torch")
    code = f"import sys, mimo_runtime; print(sorted({{m.split('.')[0] for m in sys.modules}} & set({heavy})))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_every_public_name_can_be_imported():
    import mimo_runtime

    assert all(getattr(mimo_runtime, name) is not None for name in mimo_runtime.__all__)
    assert set(mimo_runtime._HOME_OF) == set(mimo_runtime.__all__) <= set(dir(mimo_runtime))
    assert mimo_runtime.__version__
    with pytest.raises(AttributeError, match="nonsense"):
        mimo_runtime.nonsense  # noqa: B018


@pytest.mark.parametrize(("package", "code"), [("torch", 2), ("a_bug", None)])
def test_a_missing_package_is_reported_with_its_extra_and_a_bug_keeps_its_traceback(package, code):
    @click.group(cls=Commands)
    def group() -> None: ...

    @group.command()
    def work() -> None:
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)

    result = CliRunner().invoke(group, ["work"])
    if code is None:
        assert isinstance(result.exception, ModuleNotFoundError)
    else:
        assert result.exit_code == code and result.stderr == "error: torch is not installed. pip install 'mimo-edge[train]'.\n"


def test_a_command_that_gets_a_signal_leaves_nothing_half_written(tmp_path):
    """``kill`` ends a program in order: the folder that was being written goes, and the exit code tells."""
    code = """
        import sys, time
        import click
        from mimo_runtime.utils.atomic import atomic_folder
        from mimo_runtime.cli.app import Commands

        @click.group(cls=Commands)
        def main(): ...

        @main.command()
        def work():
            with atomic_folder("out") as folder:
                (folder / "half").write_text("half")
                print("ready", flush=True)
                time.sleep(600)

        main(["work"])
    """
    program = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n" and len(list(tmp_path.iterdir())) == 1
        process.terminate()
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors, list(tmp_path.iterdir())) == (143, "", [])
