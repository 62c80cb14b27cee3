import jax
import jax.numpy as jnp

from relpos import device_memory


def test_there_is_a_machine_under_us():
    assert 2**28 < device_memory.available() < 2**50


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_limits_of_control_groups_of_version_2_and_of_those_around_them(tmp_path):
    own = tmp_path / "self"
    write(own, "0::/jobs/one\n")
    mounted = tmp_path / "mounted"
    write(mounted / "jobs/one/memory.max", "max\n")
    write(mounted / "jobs/memory.max", "3000000000\n")
    assert list(device_memory.cgroup_limits(mounted, own)) == [3_000_000_000]
    write(mounted / "jobs/one/memory.max", "2000000000\n")
    assert list(device_memory.cgroup_limits(mounted, own)) == [2_000_000_000, 3_000_000_000]


def test_in_a_container_the_limit_stands_where_groups_are_mounted(tmp_path):
    write(tmp_path / "self", "0::/host/only/path\n")
    write(tmp_path / "mounted/memory.max", "5000\n")
    assert list(device_memory.cgroup_limits(tmp_path / "mounted", tmp_path / "self")) == [5000]


def test_limits_of_control_groups_of_version_1(tmp_path):
    write(tmp_path / "self", "9:cpu,cpuacct:/x\n4:memory:/job\n1:name=systemd:/y\n")
    write(tmp_path / "mounted/memory/job/memory.limit_in_bytes", "7000\n")
    assert list(device_memory.cgroup_limits(tmp_path / "mounted", tmp_path / "self")) == [7000]


def test_another_system_has_no_control_groups(tmp_path):
    assert list(device_memory.cgroup_limits(tmp_path, tmp_path / "nothing")) == []


def test_bytes_are_added_up_without_overflow():
    shapes = {"a": jax.ShapeDtypeStruct((2**31 - 1,) * 3, jnp.float32), "b": jnp.zeros(3, jnp.int8)}
    assert device_memory.tree_bytes(shapes) == 4 * (2**31 - 1) ** 3 + 3
