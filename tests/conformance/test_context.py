"""What one may ask: the runtime context, the cluster, GPUs, the time line; where workers run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest


def test_is_initialized(engine: Any) -> None:
    assert engine.is_initialized()


def test_a_second_init_is_refused_unless_said(engine: Any, script: Any) -> None:
    done = script(
        """
        engine.init()
        try:
            engine.init(ignore_reinit_error=False)
        except RuntimeError:
            print("refused")
        engine.init(ignore_reinit_error=True)
        assert engine.is_initialized()
        engine.shutdown()
        assert not engine.is_initialized()
        """
    )
    assert done.returncode == 0, done.stderr
    assert "refused" in done.stdout


def test_everything_begins_a_session_by_itself(script: Any) -> None:
    done = script(
        """
        @engine.remote
        def one():
            return 1

        assert not engine.is_initialized()
        assert engine.get(one.remote()) == 1
        assert engine.is_initialized()
        """
    )
    assert done.returncode == 0, done.stderr


def test_shutdown_twice_and_again(script: Any) -> None:
    done = script(
        """
        engine.init()
        engine.shutdown()
        engine.shutdown()

        @engine.remote
        def one():
            return 1

        engine.init()
        assert engine.get(one.remote()) == 1
        """
    )
    assert done.returncode == 0, done.stderr


def test_init_as_a_context(script: Any) -> None:
    done = script(
        """
        with engine.init():
            assert engine.get(engine.put(1)) == 1
        assert not engine.is_initialized()
        """
    )
    assert done.returncode == 0, done.stderr


def test_the_namespace_of_a_session(engine: Any) -> None:
    assert engine.get_runtime_context().namespace == "conformance"


def test_the_namespace_of_a_session_without_a_name_is_its_own(script: Any, engine: Any, unique: str) -> None:
    done = script(
        f"""
        engine.init()

        @engine.remote
        class Some:
            def one(self):
                return 1

        some = Some.options(name="{unique}", lifetime="detached").remote()
        engine.get(some.one.remote())
        print(engine.get_runtime_context().namespace)
        engine.get_actor("{unique}")
        engine.kill(some)
        """
    )
    assert done.returncode == 0, done.stderr
    assert "conformance" not in done.stdout


def test_cluster_resources(engine: Any) -> None:
    resources = engine.cluster_resources()
    assert resources["CPU"] == 4
    assert resources["GPU"] == 2
    assert resources["memory"] > 0


def test_available_resources(engine: Any, until_there: Any, tmp_path: Path, eventually: Any) -> None:
    @engine.remote(num_cpus=2, num_gpus=1)
    def hold() -> None:
        until_there(str(tmp_path / "go"))

    ref = hold.remote()
    eventually(lambda: engine.available_resources().get("GPU") == 1)
    assert engine.available_resources()["CPU"] <= 2
    (tmp_path / "go").touch()
    engine.get(ref)
    eventually(lambda: engine.available_resources().get("GPU") == 2)


def test_nodes(engine: Any) -> None:
    (node,) = engine.nodes()
    assert node["Alive"] is True
    assert node["Resources"]["CPU"] == 4
    assert node["NodeID"] == engine.get_runtime_context().get_node_id()


def test_ids_of_a_driver(engine: Any) -> None:
    context = engine.get_runtime_context()
    assert context.get_job_id()
    assert context.get_node_id()
    assert context.get_worker_id()
    assert context.get_task_id() is None
    assert context.get_actor_id() is None


def test_ids_of_a_task(engine: Any) -> None:
    @engine.remote
    def ids() -> Any:
        context = engine.get_runtime_context()
        return context.get_job_id(), context.get_node_id(), context.get_task_id(), context.get_actor_id()

    mine = engine.get_runtime_context()
    first, second = engine.get([ids.remote(), ids.remote()])
    assert first[0] == second[0] == mine.get_job_id()
    assert first[1] == mine.get_node_id()
    assert first[2] != second[2]
    assert first[3] is None


def test_ids_of_an_actor(engine: Any) -> None:
    @engine.remote
    class Some:
        def ids(self) -> Any:
            context = engine.get_runtime_context()
            return context.get_actor_id(), context.get_task_id()

    some = Some.remote()
    first, second = engine.get([some.ids.remote(), some.ids.remote()])
    assert first[0] == second[0]
    assert first[0]
    assert first[1] != second[1]


def test_names_of_tasks_and_actors(engine: Any, unique: str) -> None:
    @engine.remote
    def name() -> str:
        return str(engine.get_runtime_context().get_task_name())

    @engine.remote
    class Some:
        def name(self) -> Any:
            context = engine.get_runtime_context()
            return context.get_actor_name(), context.get_task_name()

    assert "name" in engine.get(name.remote())
    assert engine.get(name.options(name=unique).remote()) == unique
    assert engine.get(Some.options(name=unique).remote().name.remote())[0] == unique


def test_the_current_actor(engine: Any) -> None:
    @engine.remote
    class Some:
        def me(self) -> Any:
            return engine.get_runtime_context().current_actor

        def one(self) -> int:
            return 1

    some = Some.remote()
    assert engine.get(engine.get(some.me.remote()).one.remote()) == 1


def test_whether_an_actor_was_restarted(engine: Any, eventually: Any) -> None:
    @engine.remote(max_restarts=1, max_task_retries=-1)
    class Some:
        def __init__(self) -> None:
            self.restarted = engine.get_runtime_context().was_current_actor_reconstructed

        def ask(self) -> bool:
            return bool(self.restarted)

    some = Some.remote()
    assert engine.get(some.ask.remote()) is False
    engine.kill(some, no_restart=False)
    eventually(lambda: engine.get(some.ask.remote(), timeout=30) is True)


def test_assigned_resources(engine: Any) -> None:
    @engine.remote(num_cpus=2)
    def assigned() -> Any:
        return engine.get_runtime_context().get_assigned_resources()

    assert engine.get(assigned.remote())["CPU"] == 2


def test_the_runtime_environment_of_a_task(engine: Any) -> None:
    @engine.remote(runtime_env={"env_vars": {"CONFORMANCE": "x"}})
    def look() -> Any:
        return engine.get_runtime_context().runtime_env

    assert engine.get(look.remote(), timeout=50)["env_vars"] == {"CONFORMANCE": "x"}


def test_env_vars(engine: Any) -> None:
    @engine.remote
    def read(name: str) -> str | None:
        return os.environ.get(name)

    given = read.options(runtime_env={"env_vars": {"CONFORMANCE_A": "alpha"}})
    assert engine.get(given.remote("CONFORMANCE_A"), timeout=50) == "alpha"
    assert engine.get(read.remote("CONFORMANCE_A"), timeout=50) is None


def test_env_vars_of_an_actor(engine: Any) -> None:
    @engine.remote(runtime_env={"env_vars": {"CONFORMANCE_B": "beta"}})
    class Some:
        def read(self) -> str | None:
            return os.environ.get("CONFORMANCE_B")

    assert engine.get(Some.remote().read.remote(), timeout=50) == "beta"


def test_env_vars_reach_nested_tasks(engine: Any) -> None:
    @engine.remote
    def inner() -> str | None:
        return os.environ.get("CONFORMANCE_C")

    @engine.remote(runtime_env={"env_vars": {"CONFORMANCE_C": "gamma"}})
    def outer() -> Any:
        return engine.get(inner.remote())

    assert engine.get(outer.remote(), timeout=50) == "gamma"


def test_env_vars_must_be_text(engine: Any) -> None:
    def one() -> int:
        return 1

    with pytest.raises((TypeError, ValueError)):
        engine.remote(runtime_env={"env_vars": {"A": 1}})(one).remote()


def test_working_dir(script: Any, tmp_path: Path, unique: str) -> None:
    module = "module_" + unique.replace("-", "_")
    directory = tmp_path / "work"
    directory.mkdir()
    (directory / "data.txt").write_text("beside the code")
    (directory / f"{module}.py").write_text("ANSWER = 42\n")
    done = script(
        f"""
        @engine.remote
        def read():
            import importlib
            return open("data.txt").read(), importlib.import_module("{module}").ANSWER

        engine.init(runtime_env={{"working_dir": "{directory}"}})
        assert engine.get(read.remote()) == ("beside the code", 42)
        """
    )
    assert done.returncode == 0, done.stderr


def test_py_modules(script: Any, tmp_path: Path, unique: str) -> None:
    package = "package_" + unique.replace("-", "_")
    directory = tmp_path / "elsewhere" / package
    directory.mkdir(parents=True)
    (directory / "__init__.py").write_text("ANSWER = 43\n")
    done = script(
        f"""
        @engine.remote
        def read():
            import importlib
            return importlib.import_module("{package}").ANSWER

        engine.init(runtime_env={{"py_modules": ["{directory}"]}})
        assert engine.get(read.remote()) == 43
        """
    )
    assert done.returncode == 0, done.stderr


def test_env_vars_of_a_session(script: Any) -> None:
    done = script(
        """
        import os

        @engine.remote
        def read():
            return os.environ.get("CONFORMANCE_D")

        engine.init(runtime_env={"env_vars": {"CONFORMANCE_D": "delta"}})
        assert engine.get(read.remote()) == "delta"
        """
    )
    assert done.returncode == 0, done.stderr


def test_a_working_dir_that_is_not_there(script: Any, tmp_path: Path) -> None:
    done = script(f"""engine.init(runtime_env={{"working_dir": "{tmp_path / "nowhere"}"}})""")
    assert done.returncode != 0


def test_modules_beside_the_script(script: Any, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("def answer():\n    return 44\n")
    done = script(
        """
        import beside

        @engine.remote
        def ask():
            return beside.answer()

        engine.init()
        assert engine.get(ask.remote()) == 44
        """
    )
    assert done.returncode == 0, done.stderr


def test_workers_run_the_interpreter_of_the_driver(engine: Any) -> None:
    @engine.remote
    def interpreter() -> Any:
        return sys.version_info[:3], sys.prefix

    assert engine.get(interpreter.remote()) == (sys.version_info[:3], sys.prefix)


def test_gpu_ids_of_a_task(engine: Any) -> None:
    @engine.remote(num_gpus=1)
    def ids() -> Any:
        return engine.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES")

    gpu_ids, visible = engine.get(ids.remote(), timeout=50)
    assert len(gpu_ids) == 1
    assert visible
    assert "," not in visible


def test_gpu_ids_of_two_gpus(engine: Any) -> None:
    @engine.remote(num_gpus=2)
    def ids() -> Any:
        return engine.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES")

    gpu_ids, visible = engine.get(ids.remote(), timeout=50)
    assert len(set(gpu_ids)) == 2
    assert len(visible.split(",")) == 2


def test_gpu_ids_without_gpus(engine: Any) -> None:
    @engine.remote
    def ids() -> Any:
        return engine.get_gpu_ids()

    assert engine.get(ids.remote()) == []


def test_gpu_ids_of_actors_differ(engine: Any) -> None:
    @engine.remote(num_gpus=1)
    class Holder:
        def ids(self) -> Any:
            return tuple(engine.get_gpu_ids())

    one, other = Holder.remote(), Holder.remote()
    assert len(set(engine.get([one.ids.remote(), other.ids.remote()], timeout=50))) == 2


def test_half_gpus_share_one(engine: Any) -> None:
    @engine.remote(num_gpus=0.5)
    class Holder:
        def ids(self) -> Any:
            return tuple(engine.get_gpu_ids())

    holders = [Holder.remote() for _ in range(4)]
    seen = engine.get([holder.ids.remote() for holder in holders], timeout=50)
    assert sorted(seen.count(one) for one in set(seen)) == [2, 2]


def test_more_gpus_than_there_are_wait(engine: Any) -> None:
    @engine.remote(num_gpus=2)
    class Holder:
        def one(self) -> int:
            return 1

    @engine.remote(num_gpus=1)
    def use() -> int:
        return 2

    holder = Holder.remote()
    assert engine.get(holder.one.remote(), timeout=50) == 1
    ref = use.remote()
    assert engine.wait([ref], timeout=0.3)[0] == []
    engine.kill(holder)
    assert engine.get(ref, timeout=50) == 2


def test_fractions_of_cpus(engine: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote(num_cpus=0.5)
    def hold(i: int) -> None:
        (tmp_path / f"began-{i}").touch()
        until_there(str(tmp_path / "go"))

    refs = [hold.remote(i) for i in range(8)]
    for i in range(8):
        until_there(str(tmp_path / f"began-{i}"))
    (tmp_path / "go").touch()
    engine.get(refs, timeout=30)


def test_timeline(engine: Any, tmp_path: Path, eventually: Any) -> None:
    @engine.remote
    def shown_in_the_timeline() -> int:
        return 1

    engine.get([shown_in_the_timeline.remote() for _ in range(3)])
    file = tmp_path / "timeline.json"

    def there() -> bool:
        engine.timeline(filename=str(file))
        return any("shown_in_the_timeline" in str(event.get("name", "")) for event in json.loads(file.read_text()))

    eventually(there)
    assert isinstance(engine.timeline(), list)


def test_the_ip_address_of_a_node(part: Any) -> None:
    assert part("util").get_node_ip_address().count(".") == 3
