"""A relay between TCP and HTTP/2 CONNECT on Python's h2, without TLS. Started by e2e/tests/foreign/relay.rs:

    relay.py server LISTEN                      accepts CONNECT and dials the authority
    relay.py client LISTEN TARGET AUTHORITY     accepts TCP and opens CONNECT at TARGET

Half-closes pass in both directions; what breaks one side resets the other.
"""

import asyncio
import socket
import struct
import sys

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

CHUNK = 64 << 10
# Streams of one connection that the client role opens at most.
STREAMS = 100


class Stream:
    """One tunnel: the application's socket and what the peer has sent for it."""

    def __init__(self, carrier, number):
        self.carrier, self.number = carrier, number
        self.received = asyncio.Queue()
        self.credit = asyncio.Event()
        self.answered = asyncio.get_running_loop().create_future()
        self.reset = False

    async def run(self, reader, writer):
        """Both directions, until both have ended or one has broken."""
        up = asyncio.create_task(self.from_application(reader))
        down = asyncio.create_task(self.to_application(writer))
        try:
            await asyncio.gather(up, down)
        except (OSError, ProtocolError, EOFError):
            self.carrier.reset_stream(self.number)
            abort(writer)
        finally:
            up.cancel()
            down.cancel()
            writer.close()
            self.carrier.streams.pop(self.number, None)

    async def from_application(self, reader):
        h2 = self.carrier.h2
        while data := await reader.read(CHUNK):
            view = memoryview(data)
            while view:
                if self.reset:
                    raise EOFError
                self.credit.clear()
                room = min(h2.local_flow_control_window(self.number), h2.max_outbound_frame_size, len(view))
                if room <= 0:
                    await self.credit.wait()
                    continue
                h2.send_data(self.number, bytes(view[:room]))
                view = view[room:]
                await self.carrier.flush()
        h2.end_stream(self.number)
        await self.carrier.flush()

    async def to_application(self, writer):
        while (item := await self.received.get()) is not None:
            data, credit = item
            if data is None:
                raise EOFError
            writer.write(data)
            await writer.drain()
            if not self.reset and credit:
                self.carrier.h2.acknowledge_received_data(credit, self.number)
                await self.carrier.flush()
        writer.write_eof()


class Carrier:
    """One HTTP/2 connection, either role."""

    def __init__(self, reader, writer, client):
        self.reader, self.writer = reader, writer
        self.h2 = H2Connection(H2Configuration(client_side=client, header_encoding="utf-8"))
        self.streams = {}
        self.h2.initiate_connection()
        self.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 200})
        self.h2.increment_flow_control_window((4 << 20) - 65535)

    async def flush(self):
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    def reset_stream(self, number):
        try:
            self.h2.reset_stream(number, ErrorCodes.CONNECT_ERROR)
            self.writer.write(self.h2.data_to_send())
        except ProtocolError:
            # It has ended already.
            pass

    async def run(self):
        """Until the peer closes. What breaks HTTP/2 is printed; all tunnels break with it, so the test fails."""
        await self.flush()
        try:
            while data := await self.reader.read(CHUNK):
                for event in self.h2.receive_data(data):
                    self.take(event)
                await self.flush()
        except ProtocolError as error:
            print(f"the peer broke HTTP/2: {error!r}", file=sys.stderr, flush=True)
            await self.flush()
        except OSError:
            pass
        for stream in list(self.streams.values()):
            stream.reset = True
            stream.received.put_nowait((None, 0))
            stream.credit.set()
        self.writer.close()

    def take(self, event):
        stream = self.streams.get(getattr(event, "stream_id", None))
        if isinstance(event, RequestReceived):
            stream = self.streams[event.stream_id] = Stream(self, event.stream_id)
            spawn(self.accept(stream, dict(event.headers)))
        elif isinstance(event, ResponseReceived) and stream:
            if not stream.answered.done():
                stream.answered.set_result(dict(event.headers).get(":status") == "200")
        elif isinstance(event, DataReceived):
            if stream:
                stream.received.put_nowait((event.data, event.flow_controlled_length))
            else:
                self.h2.increment_flow_control_window(event.flow_controlled_length)
        elif isinstance(event, StreamEnded) and stream:
            stream.received.put_nowait(None)
        elif isinstance(event, StreamReset) and stream:
            stream.reset = True
            stream.received.put_nowait((None, 0))
            stream.credit.set()
            if not stream.answered.done():
                stream.answered.set_result(False)
        elif isinstance(event, (WindowUpdated, RemoteSettingsChanged)):
            for waiting in [stream] if stream else list(self.streams.values()):
                waiting.credit.set()

    async def accept(self, stream, headers):
        host, _, port = headers.get(":authority", "").rpartition(":")
        try:
            if headers.get(":method") != "CONNECT":
                raise OSError("no CONNECT")
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            self.h2.send_headers(stream.number, [(":status", "503")], end_stream=True)
            await self.flush()
            return
        try:
            self.h2.send_headers(stream.number, [(":status", "200")])
        except ProtocolError:
            abort(writer)
            return
        await self.flush()
        await stream.run(reader, writer)


RUNNING = set()


def spawn(work):
    task = asyncio.create_task(work)
    RUNNING.add(task)
    task.add_done_callback(RUNNING.discard)
    return task


def abort(writer):
    """Closes with a reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Opener:
    """The client role: tunnels over as few connections as the limit of streams allows."""

    def __init__(self, target, authority):
        self.target, self.authority = target, authority
        self.carriers = []
        self.lock = asyncio.Lock()

    async def carrier(self):
        async with self.lock:
            for carrier in self.carriers:
                if len(carrier.streams) < STREAMS:
                    return carrier
            carrier = Carrier(*await asyncio.open_connection(*self.target), client=True)
            self.carriers.append(carrier)
            spawn(carrier.run())
            return carrier

    async def serve(self, reader, writer):
        carrier = await self.carrier()
        number = carrier.h2.get_next_available_stream_id()
        stream = carrier.streams[number] = Stream(carrier, number)
        carrier.h2.send_headers(number, [(":method", "CONNECT"), (":authority", self.authority)])
        await carrier.flush()
        if await stream.answered:
            await stream.run(reader, writer)
        else:
            carrier.streams.pop(number, None)
            abort(writer)


async def main():
    role, (host, port) = sys.argv[1], address(sys.argv[2])
    if role == "client":
        serve = Opener(address(sys.argv[3]), sys.argv[4]).serve
    else:
        async def serve(reader, writer):
            await Carrier(reader, writer, client=False).run()

    server = await asyncio.start_server(serve, host, port, backlog=1000)
    await server.serve_forever()


def address(text):
    host, _, port = text.rpartition(":")
    return host, int(port)


asyncio.run(main())
