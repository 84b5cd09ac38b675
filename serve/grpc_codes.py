"""What gRPC fronts and the client share: the name of the service and the code of each meaning."""

from headrace.serve.errors import Meaning

SERVICE = "inference.GRPCInferenceService"

# gRPC status codes by number: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
CODES = {
    Meaning.BAD_ARGUMENT: 3,
    Meaning.NOT_FOUND: 5,
    Meaning.EXISTS: 6,
    Meaning.UNSUPPORTED: 12,
    Meaning.UNAVAILABLE: 14,
    Meaning.OVERLOADED: 8,
    Meaning.EXPIRED: 4,
    Meaning.CANCELLED: 1,
    Meaning.TOO_LARGE: 8,
    Meaning.UNAUTHENTICATED: 16,
    Meaning.FORBIDDEN: 7,
    Meaning.INTERNAL: 13,
}
