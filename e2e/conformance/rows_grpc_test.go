package conformance

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const grpcHost = "grpc2.example.com"

// scripted is a gRPC service whose calls do what the row at hand says.
type scripted struct {
	pb.UnimplementedTestServiceServer
	unary  func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error)
	output func(*pb.StreamingOutputCallRequest, grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error
	input  func(grpc.ClientStreamingServer[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]) error
	duplex func(grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error
}

// grpcService is the running row's; rows run one at a time.
var grpcService atomic.Pointer[scripted]

// grpcRelay passes calls to grpcService.
type grpcRelay struct {
	pb.UnimplementedTestServiceServer
}

func (grpcRelay) UnaryCall(ctx context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	return grpcService.Load().unary(ctx, r)
}

func (grpcRelay) StreamingOutputCall(r *pb.StreamingOutputCallRequest, s grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
	return grpcService.Load().output(r, s)
}

func (grpcRelay) StreamingInputCall(s grpc.ClientStreamingServer[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]) error {
	return grpcService.Load().input(s)
}

func (grpcRelay) FullDuplexCall(s grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	return grpcService.Load().duplex(s)
}

// serveGRPC starts a real gRPC server.
func (w *world) serveGRPC(t *testing.T) string {
	t.Helper()
	leaf, err := w.ca.Leaf(grpcHost)
	must(t, err)
	s := grpc.NewServer(
		grpc.Creds(credentials.NewServerTLSFromCert(leaf)),
		grpc.MaxRecvMsgSize(64<<20),
	)
	pb.RegisterTestServiceServer(s, grpcRelay{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ln) // ends at Stop
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return ln.Addr().String()
}

func grpcRows() []row {
	const group = "gRPC"
	call := func(name string, run func(p *pair, c pb.TestServiceClient, s *scripted)) row {
		return row{
			group: group, name: name,
			na: func(agentH2, upstreamH2 bool) string { return when(!agentH2 || !upstreamH2, grpcIsH2) },
			run: func(p *pair) {
				s := new(scripted)
				grpcService.Store(s)
				conn, err := grpc.NewClient("passthrough:///"+grpcHost+":443",
					grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: p.roots, ServerName: grpcHost})),
					grpc.WithAuthority(grpcHost),
					grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
					grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return p.tunnel(grpcHost), nil }))
				must(p, err)
				p.T.Cleanup(func() { _ = conn.Close() })
				run(p, pb.NewTestServiceClient(conn), s)
			},
		}
	}
	payload := func(text string) *pb.Payload { return &pb.Payload{Body: []byte(text)} }
	return []row{
		call("unary, with metadata both ways and in the trailer", func(p *pair, c pb.TestServiceClient, s *scripted) {
			s.unary = func(ctx context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
				in, _ := metadata.FromIncomingContext(ctx)
				equal(p, "authorization", fmt.Sprint(in["authorization"]), "[Bearer "+token+"]")
				equal(p, "metadata", fmt.Sprint(in["x-in"]), "[a b]")
				equal(p, "binary metadata", fmt.Sprint(in["x-in-bin"]), "[\x00\xff]")
				_ = grpc.SendHeader(ctx, metadata.Pairs("x-head", "h", "x-head-bin", "\x01\xfe"))
				_ = grpc.SetTrailer(ctx, metadata.Pairs("x-tail", "t"))
				return &pb.SimpleResponse{Payload: r.Payload}, nil
			}
			var head, tail metadata.MD
			ctx := metadata.AppendToOutgoingContext(p.Context(), "x-in", "a", "x-in", "b", "x-in-bin", "\x00\xff", "authorization", "Bearer mine")
			got, err := c.UnaryCall(ctx, &pb.SimpleRequest{Payload: payload("hello")}, grpc.Header(&head), grpc.Trailer(&tail))
			must(p, err)
			equal(p, "answer", string(got.Payload.Body), "hello")
			equal(p, "header", fmt.Sprint(head["x-head"], head["x-head-bin"]), "[h] [\x01\xfe]")
			equal(p, "trailer", fmt.Sprint(tail["x-tail"]), "[t]")
		}),
		call("unary of 16 MiB each way", func(p *pair, c pb.TestServiceClient, s *scripted) {
			s.unary = func(_ context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
				return &pb.SimpleResponse{Payload: r.Payload}, nil
			}
			text := strings.Repeat("0123456789abcdef", 1<<20)
			got, err := c.UnaryCall(p.Context(), &pb.SimpleRequest{Payload: payload(text)})
			must(p, err)
			equal(p, "the answer is the request", string(got.Payload.Body) == text, true)
		}),
		call("server streaming, each message before the next is sent", func(p *pair, c pb.TestServiceClient, s *scripted) {
			next := make(chan struct{})
			s.output = func(_ *pb.StreamingOutputCallRequest, out grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
				for i := range 5 {
					<-next
					if err := out.Send(&pb.StreamingOutputCallResponse{Payload: payload(fmt.Sprint(i))}); err != nil {
						return err
					}
				}
				return nil
			}
			in, err := c.StreamingOutputCall(p.Context(), new(pb.StreamingOutputCallRequest))
			must(p, err)
			for i := range 5 {
				next <- struct{}{}
				got, err := in.Recv()
				must(p, err)
				equal(p, "message", string(got.Payload.Body), fmt.Sprint(i))
			}
			_, err = in.Recv()
			equal(p, "the end", err, io.EOF)
		}),
		call("client streaming, each message before the next is sent", func(p *pair, c pb.TestServiceClient, s *scripted) {
			got := make(chan string)
			s.input = func(in grpc.ClientStreamingServer[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]) error {
				for n := int32(0); ; n++ {
					m, err := in.Recv()
					if err == io.EOF {
						return in.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: n})
					}
					if err != nil {
						return err
					}
					got <- string(m.Payload.Body)
				}
			}
			out, err := c.StreamingInputCall(p.Context())
			must(p, err)
			for i := range 5 {
				must(p, out.Send(&pb.StreamingInputCallRequest{Payload: payload(fmt.Sprint(i))}))
				equal(p, "message", within(p, "a message", got), fmt.Sprint(i))
			}
			answer, err := out.CloseAndRecv()
			must(p, err)
			equal(p, "messages", answer.AggregatedPayloadSize, 5)
		}),
		call("bidirectional streaming, in turns", func(p *pair, c pb.TestServiceClient, s *scripted) {
			s.duplex = func(both grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
				for {
					m, err := both.Recv()
					if err == io.EOF {
						both.SetTrailer(metadata.Pairs("x-tail", "t"))
						return nil
					}
					if err != nil {
						return err
					}
					if err := both.Send(&pb.StreamingOutputCallResponse{Payload: m.Payload}); err != nil {
						return err
					}
				}
			}
			both, err := c.FullDuplexCall(p.Context())
			must(p, err)
			for i := range 20 {
				must(p, both.Send(&pb.StreamingOutputCallRequest{Payload: payload(fmt.Sprint(i))}))
				got, err := both.Recv()
				must(p, err)
				equal(p, "message", string(got.Payload.Body), fmt.Sprint(i))
			}
			must(p, both.CloseSend())
			_, err = both.Recv()
			equal(p, "the end", err, io.EOF)
			equal(p, "trailer", fmt.Sprint(both.Trailer()["x-tail"]), "[t]")
		}),
		call("status code, message and details, in a trailers-only response", func(p *pair, c pb.TestServiceClient, s *scripted) {
			s.unary = func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
				st, err := status.New(codes.FailedPrecondition, "nö: 100% ✗").WithDetails(&pb.EchoStatus{Code: 7, Message: "detail"})
				if err != nil {
					return nil, err
				}
				return nil, st.Err()
			}
			_, err := c.UnaryCall(p.Context(), new(pb.SimpleRequest))
			st := status.Convert(err)
			equal(p, "code", st.Code(), codes.FailedPrecondition)
			equal(p, "message", st.Message(), "nö: 100% ✗")
			if len(st.Details()) != 1 {
				p.Fatalf("details %v", st.Details())
			}
			detail, ok := st.Details()[0].(*pb.EchoStatus)
			equal(p, "detail", ok && detail.Code == 7 && detail.Message == "detail", true)
		}),
		call("every status code; an unknown method", func(p *pair, c pb.TestServiceClient, s *scripted) {
			for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
				s.unary = func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
					return nil, status.Error(code, "x")
				}
				_, err := c.UnaryCall(p.Context(), new(pb.SimpleRequest))
				equal(p, "code", status.Code(err), code)
			}
			_, err := c.CacheableUnaryCall(p.Context(), new(pb.SimpleRequest))
			equal(p, "unknown method", status.Code(err), codes.Unimplemented)
		}),
		call("status after messages", func(p *pair, c pb.TestServiceClient, s *scripted) {
			s.output = func(_ *pb.StreamingOutputCallRequest, out grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
				_ = out.Send(&pb.StreamingOutputCallResponse{Payload: payload("one")})
				return status.Error(codes.DataLoss, "lost")
			}
			in, err := c.StreamingOutputCall(p.Context(), new(pb.StreamingOutputCallRequest))
			must(p, err)
			got, err := in.Recv()
			must(p, err)
			equal(p, "message", string(got.Payload.Body), "one")
			_, err = in.Recv()
			equal(p, "code", status.Code(err), codes.DataLoss)
		}),
		call("status in the middle of the requests", func(p *pair, c pb.TestServiceClient, s *scripted) {
			s.input = func(in grpc.ClientStreamingServer[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]) error {
				_, _ = in.Recv()
				return status.Error(codes.ResourceExhausted, "enough")
			}
			out, err := c.StreamingInputCall(p.Context())
			must(p, err)
			for err == nil {
				err = out.Send(&pb.StreamingInputCallRequest{Payload: payload(strings.Repeat("x", 10_000))})
			}
			equal(p, "sending", err, io.EOF)
			_, err = out.CloseAndRecv()
			equal(p, "code", status.Code(err), codes.ResourceExhausted)
		}),
		call("deadline and cancellation reach the server", func(p *pair, c pb.TestServiceClient, s *scripted) {
			ended := make(chan error, 1)
			started := make(chan bool, 1)
			s.unary = func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
				_, ok := ctx.Deadline()
				started <- ok
				<-ctx.Done()
				ended <- ctx.Err()
				return nil, ctx.Err()
			}
			ctx, cancel := context.WithTimeout(p.Context(), time.Hour)
			go func() {
				equal(p, "the server has the deadline", <-started, true)
				cancel()
			}()
			_, err := c.UnaryCall(ctx, new(pb.SimpleRequest))
			equal(p, "code", status.Code(err), codes.Canceled)
			equal(p, "the server's end", within(p, "the call's end", ended), context.Canceled)
		}),
	}
}
