package tools

func grpcTools() []tool {
	// Messages by hand: field 3 of a request and field 1 of a response hold a
	// Payload, whose field 2 is the body.
	return []tool{
		{
			name: "grpcurl", host: grpcHost, ca: byEnv,
			does: "a unary call, its types by server reflection",
			line: `grpcurl -H "authorization: Bearer $GRPC_TOKEN" -d '{"payload":{"body":"aGVsbG8="}}' grpc.example.com:443 grpc.testing.TestService/UnaryCall | tr -d ' \n'`,
			want: `{"payload":{"body":"aGVsbG8="}}`,
		},
		{
			name: "gRPC for Python", host: grpcHost, ca: byEnv,
			does: "a unary and a bidirectional call with call credentials",
			line: script(python, `
import os, grpc
credentials = grpc.composite_channel_credentials(grpc.ssl_channel_credentials(), grpc.access_token_call_credentials(os.environ["GRPC_TOKEN"]))
with grpc.secure_channel("grpc.example.com:443", credentials) as channel:
    request, service = b"\x1a\x07\x12\x05hello", "/grpc.testing.TestService/"
    print(channel.unary_unary(service + "UnaryCall")(request, timeout=20)[4:].decode())
    print(*[m[4:].decode() for m in channel.stream_stream(service + "FullDuplexCall")(iter([request, request]), timeout=20)])`),
			want: "hello\nhello hello",
		},
		{
			name: "gRPC for Node", host: grpcHost, ca: byEnv,
			does: "a unary call with call credentials",
			line: script("node --input-type=module", `
import grpc from "@grpc/grpc-js";
const token = grpc.credentials.createFromMetadataGenerator((_, done) => {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", "Bearer " + process.env.GRPC_TOKEN);
  done(null, metadata);
});
const channel = new grpc.Client("grpc.example.com:443", grpc.credentials.combineChannelCredentials(grpc.credentials.createSsl(), token));
const same = (bytes) => bytes;
channel.makeUnaryRequest("/grpc.testing.TestService/UnaryCall", same, same, Buffer.from("\x1a\x07\x12\x05hello"), (err, answer) => {
  console.log(err ? String(err) : answer.subarray(4).toString());
  channel.close();
});`),
			want: "hello",
		},
	}
}
