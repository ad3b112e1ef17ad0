"""A sweep on other launchers of Hydra's, as far as one machine goes: submitit's local executor, and a Ray of its own."""

import importlib.util

import pytest
from running import World, result_of
from test_sweeps import QUICK, jobs_of

WORDS = ("-m", *QUICK, "adapter.target_modules=[q_proj],[nonsense],[v_proj]", "output_dir=sweep")
LAUNCHERS = {
    "submitit": ["hydra/launcher=submitit_local"],
    "ray": ["sweep=ray", "+hydra.launcher.ray.init.num_cpus=2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_its_jobs_are_in_the_ledger(tmp_path, name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed; pip install 'lexalign[{'slurm' if name == 'submitit' else name}]'")
    world, env = World(tmp_path), {"RAY_USAGE_STATS_ENABLED": "0"}
    first = world.type(*WORDS, *LAUNCHERS[name], env=env)
    assert first.returncode == 1 and "3 points, 0 finished before, 3 to run" in first.stderr, first.stderr[-3000:]
    jobs = jobs_of(tmp_path / "sweep")
    assert [job.state for job in jobs] == ["finished", "failed", "finished"] and "nonsense" in jobs[1].reason
    assert [result_of(tmp_path / "sweep" / str(number))["status"] for number in range(3)] == ["finished", "failed", "finished"]
    again = world.type(*WORDS, *LAUNCHERS[name], env=env)
    assert "3 points, 2 finished before, 1 to run" in again.stderr
    assert [job.attempts for job in jobs_of(tmp_path / "sweep")] == [1, 2, 1]
    local = world.type(*WORDS)
    assert "3 points, 2 finished before, 1 to run" in local.stderr, "the ledger is the same whoever runs the jobs"


def test_one_that_is_not_installed_is_named(tmp_path):
    if importlib.util.find_spec("submitit") is not None:
        pytest.skip("it is installed here")
    done = World(tmp_path).type("-m", *QUICK, "seed=0,1", "sweep=slurm")
    assert done.returncode == 2 and "hydra/launcher=submitit_slurm: is not installed; type: pip install 'lexalign[slurm]'" in done.stderr
