"""All checks against one server, and what came of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import grpc

from headrace.runtime.errors import HeadraceError
from headrace.serve.client_types import ClientTls
from headrace.verbs.conformance.check import CHECKS, Differs, NotHere
from headrace.verbs.conformance.target import Target

for _name in ("grpc_core", "grpc_more", "rest"):  # each registers its checks
    importlib.import_module(f"headrace.verbs.conformance.{_name}")


def conformance(
    address: str, *, rest: str = "", model: str = "", core: bool = False, timeout: float = 10.0,
    tls: ClientTls | str | None = None, token: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Look at the server at `address` (host:port of gRPC; `rest`: host:port of REST) and compare it with the Open Inference
    Protocol and, unless `core`, Triton's extensions. `model`: the one to ask (else the first that is ready; models that
    give back what they get are found and used for the datatypes). `tls` and `token`: as of Client, for both ports. Nothing is loaded, unloaded or changed.

    Answers target, model, checks: protocol, part, name, outcome ("pass", "differs", "skip"), detail; passed, differing,
    skipped. HeadraceError where no server answers.
    """
    target = Target(
        address.removeprefix("grpc://"),
        rest,
        model,
        timeout,
        tls,
        token,
    )
    try:
        return _run(target, address, core, progress)
    finally:
        target.close()


def _run(target: Target, address: str, core: bool, progress: Callable[[int, int], None] | None) -> dict[str, Any]:
    from headrace.protos import inference_pb2 as pb

    if target.code("ServerLive", pb.ServerLiveRequest()) == "UNAVAILABLE":
        raise HeadraceError(f"no gRPC server at {address}; is it the gRPC port?")
    if name := target.asked_model:
        code = target.code("ModelMetadata", pb.ModelMetadataRequest(name=name))
        if code in ("NOT_FOUND", "UNAVAILABLE", "INVALID_ARGUMENT"):
            raise HeadraceError(f"the server at {address} has no model {name!r} that is ready ({code})")
    chosen = [check for check in CHECKS if not core or check.part == "core"]
    rows = []
    for number, check in enumerate(chosen):
        if progress is not None:
            progress(number, len(chosen))
        outcome, detail = "pass", ""
        try:
            check.run(target)
        except Differs as error:
            outcome, detail = "differs", str(error)
        except NotHere as error:
            outcome, detail = "skip", str(error)
        except grpc.RpcError as error:
            outcome, detail = "differs", f"{error.code().name}: {error.details()}"[:300]
        except Exception as error:  # an answer that cannot be read is the server's, too
            outcome, detail = "differs", f"its answer cannot be read ({type(error).__name__}: {error})"[:300]
        rows.append(
            {"protocol": check.protocol, "part": check.part, "name": check.name, "outcome": outcome, "detail": detail}
        )
    count = {name: sum(row["outcome"] == name for row in rows) for name in ("pass", "differs", "skip")}
    try:
        asked = target.model
    except (NotHere, grpc.RpcError):
        asked = ""
    return {
        "target": address,
        "rest": target.rest_address,
        "model": asked,
        "checks": rows,
        "passed": count["pass"],
        "differing": count["differs"],
        "skipped": count["skip"],
    }


__all__ = ["conformance"]
