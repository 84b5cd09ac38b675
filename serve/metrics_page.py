"""The metrics listener: one page. The renderer is imported with the first scrape, not at start."""

from headrace.serve.dataplane import DataPlane
from headrace.serve.errors import ServeError
from headrace.serve.guard import Guard
from headrace.serve.http_messages import HttpRequest, HttpResponse
from headrace.serve.tls import Certificates


class MetricsPage:
    """An `http_messages.Application` with one page, /metrics."""

    closing = False

    def __init__(self, plane: DataPlane, certificates: Certificates | None = None, guard: Guard | None = None) -> None:
        self._plane, self._certificates, self._guard = plane, certificates, guard or Guard()

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.target.split("?", 1)[0] != "/metrics":
            return self.refuse(404, "the path is unknown; metrics are at /metrics")
        if request.method not in ("GET", "HEAD"):
            return self.refuse(405, "the method is not allowed here; allowed: GET")
        try:
            self._guard.check("http", "metrics", request.header, request.local)
        except ServeError as error:
            from headrace.serve.rest_front import failure

            return failure(error)
        from headrace.serve.metrics import render

        page, content_type = render(self._plane, self._certificates)
        return HttpResponse(200, [page], [(b"content-type", content_type)])

    def refuse(self, status: int, text: str) -> HttpResponse:
        return HttpResponse(status, [text.encode()], [(b"content-type", b"text/plain")])
