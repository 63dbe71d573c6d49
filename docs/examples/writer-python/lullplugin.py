"""The plugin's side of lull's protocol for writers, in Python.

Serve(writer) is what plugins/sdk is in Go: handshake, mutual TLS, health, the
broker that leads to the guest, and one call at a time. docs/plugins.md, "Other
languages", says what each step is for.

Needs python3-grpcio, python3-protobuf and python3-cryptography of Debian 12, and
writer_pb2 and goplugin_pb2, made by:

    protoc -I. -I../../../plugins/proto --python_out=. writer.proto goplugin.proto
"""

import base64
import datetime
import json
import os
import signal
import sys
import tempfile
import threading
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import goplugin_pb2
import writer_pb2 as pb

VERSION = 1
COOKIE = ("LULL_PLUGIN", "lull-writer-9c1f")
MAX_MESSAGE = 4 << 20
OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
]


class Failure(Exception):
    """A typed failure; the classes are those of FailureClass in writer.proto."""

    def __init__(self, message, kind=pb.FAILURE_CLASS_NOT_RETRYABLE, component="", hint=""):
        super().__init__(message)
        self.detail = pb.Failure(message=message, component=component, hint=hint)
        setattr(self.detail, "class", kind)  # a word of Python


def progress(what, done, total=0):
    """Say how far the call is that is under way; a total of 0 is not known."""
    line = {"@level": "info", "@message": what, "@progress": {"done": done, "total": total}}
    print(json.dumps(line), file=sys.stderr, flush=True)


class Guest:
    """The guest of this plugin. What is not granted raises grpc.RpcError."""

    def __init__(self, channel):
        self.channel = channel

    def call(self, name, request, response, timeout):
        method = self.channel.unary_unary(
            "/lull.plugin.v1.Guest/" + name,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return method(request, timeout=timeout)

    def execute(self, path, args, timeout):
        """Run a program in the guest to its end."""
        return self.call("Exec", pb.ExecRequest(path=path, args=args), pb.ExecResponse, timeout)


class Broker:
    """Keeps where lull serves what it offers."""

    def __init__(self):
        self.known = threading.Condition()
        self.infos = {}

    def stream(self, requests, _):
        for info in requests:
            with self.known:
                self.infos[info.service_id] = info
                self.known.notify_all()
        return
        yield  # a generator that says nothing

    def address(self, broker_id, timeout):
        with self.known:
            if not self.known.wait_for(lambda: broker_id in self.infos, timeout):
                raise Failure("lull did not say where its guest service is")
            info = self.infos[broker_id]
        if info.network != "unix":
            raise Failure("the guest service is no Unix socket")
        return "unix:" + info.address


def make_certificate():
    """A key and a certificate for this one start."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.utcnow()
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
            critical=False,
        )
        .sign(key, hashes.SHA384())
    )
    return (
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        cert.public_bytes(serialization.Encoding.PEM),
        cert.public_bytes(serialization.Encoding.DER),
    )


def abort_call(context, failure):
    """End a call with a typed failure in the status details."""
    status = goplugin_pb2.Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message=str(failure))
    status.details.add().Pack(failure.detail)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(failure))


class Server:
    """Answers lull for one writer."""

    def __init__(self, writer, certificates):
        self.writer = writer
        self.key, self.cert, self.host_cert = certificates
        self.broker = Broker()
        self.turn = threading.Lock()  # one call at a time
        self.ended = threading.Event()

    def call(self, name, request_type, answer):
        """A handler of one call of the contract."""

        def handle(request, context):
            # A call that was given up still has the turn until it ends.
            if name != "Identify" and not self.turn.acquire(timeout=context.time_remaining() or 60):
                context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "an earlier call is still running")
            try:
                if not context.is_active():  # it was given up, and perhaps an Abort came first
                    context.abort(grpc.StatusCode.CANCELLED, "given up before it began")
                return answer(request, context)
            except Failure as failure:
                abort_call(context, failure)
            except grpc.RpcError as error:  # of the guest
                abort_call(context, Failure("guest: %s: %s" % (error.code().name, error.details())))
            finally:
                if name != "Identify":
                    self.turn.release()

        return unary(request_type, handle)

    def connect(self, request, context):
        guest = None
        if request.guest_broker_id:
            creds = grpc.ssl_channel_credentials(self.host_cert, self.key, self.cert)
            target = self.broker.address(request.guest_broker_id, context.time_remaining())
            options = OPTIONS + [("grpc.ssl_target_name_override", "localhost")]
            guest = Guest(grpc.secure_channel(target, creds, options))
        self.writer.connect(guest)
        return pb.ConnectResponse()

    def writer_handlers(self):
        handlers = {
            "Connect": self.call("Connect", pb.ConnectRequest, self.connect),
            "Identify": self.call("Identify", pb.IdentifyRequest, lambda r, c: self.writer.identify()),
        }
        # Every method of the writer that is there is a call, with its whole request; the
        # others answer UNIMPLEMENTED, which lull takes for "nothing to do".
        for name, method, request, response in (
            ("Prepare", "prepare", pb.PrepareRequest, pb.PrepareResponse),
            ("Freeze", "freeze", pb.FreezeRequest, pb.FreezeResponse),
            ("Thaw", "thaw", pb.ThawRequest, pb.ThawResponse),
            ("PostSnapshot", "post_snapshot", pb.PostSnapshotRequest, pb.PostSnapshotResponse),
            ("Complete", "complete", pb.CompleteRequest, pb.CompleteResponse),
            ("Abort", "abort", pb.AbortRequest, pb.AbortResponse),
            ("PreRestore", "pre_restore", pb.PreRestoreRequest, pb.PreRestoreResponse),
            ("PostRestore", "post_restore", pb.PostRestoreRequest, pb.PostRestoreResponse),
        ):
            fn = getattr(self.writer, method, None)
            if fn:
                handlers[name] = self.call(
                    name, request, lambda r, c, fn=fn, response=response: fn(r, c.time_remaining()) or response()
                )
        return grpc.method_handlers_generic_handler("lull.plugin.v1.Writer", handlers)

    def library_handlers(self):
        def shutdown(_request, _context):
            self.ended.set()
            return goplugin_pb2.Empty()

        return (
            grpc.method_handlers_generic_handler(
                "grpc.health.v1.Health",
                {"Check": unary(goplugin_pb2.Empty, lambda r, c: goplugin_pb2.HealthCheckResponse(status=1))},
            ),
            grpc.method_handlers_generic_handler("plugin.GRPCController", {"Shutdown": unary(goplugin_pb2.Empty, shutdown)}),
            grpc.method_handlers_generic_handler(
                "plugin.GRPCBroker",
                {
                    "StartStream": grpc.stream_stream_rpc_method_handler(
                        self.broker.stream, goplugin_pb2.ConnInfo.FromString, goplugin_pb2.ConnInfo.SerializeToString
                    )
                },
            ),
        )


def unary(request_type, handle):
    return grpc.unary_unary_rpc_method_handler(handle, request_type.FromString, lambda m: m.SerializeToString())


def serve(writer):
    """Answer lull until it ends the plugin."""
    if os.environ.get(COOKIE[0]) != COOKIE[1]:
        sys.exit("this is a plugin of lull, which starts it by itself")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    folder = os.environ["PLUGIN_UNIX_SOCKET_DIR"]
    host_cert = os.environ["PLUGIN_CLIENT_CERT"].encode()
    key, cert, der = make_certificate()

    server = Server(writer, (key, cert, host_cert))
    grpc_server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=OPTIONS)
    grpc_server.add_generic_rpc_handlers((server.writer_handlers(),) + server.library_handlers())
    socket = tempfile.mktemp(prefix="plugin", dir=folder)  # the folder is ours alone
    creds = grpc.ssl_server_credentials([(key, cert)], root_certificates=host_cert, require_client_auth=True)
    grpc_server.add_secure_port("unix:" + socket, creds)
    grpc_server.start()
    group = os.environ.get("PLUGIN_UNIX_SOCKET_GROUP")
    if group:
        os.chown(socket, -1, int(group))
        os.chmod(socket, 0o660)

    line = "1|%d|unix|%s|grpc|%s" % (VERSION, socket, base64.b64encode(der).decode().rstrip("="))
    print(line, flush=True)
    server.ended.wait()
    grpc_server.stop(grace=0.1).wait()  # lull's connection to the broker stays open all the time
