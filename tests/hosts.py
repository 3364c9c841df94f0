"""Several hosts on this machine."""
import socket


def environments(hosts: int) -> list[dict[str, str]]:
    """The environment of each host of a job."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = f"localhost:{free.getsockname()[1]}"
    return [dict(JAX_COORDINATOR_ADDRESS=where, JAX_NUM_PROCESSES=str(hosts), JAX_PROCESS_ID=str(host)) for host in range(hosts)]
