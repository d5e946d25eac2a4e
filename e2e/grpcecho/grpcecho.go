// Package grpcecho is a gRPC service that says what it is told: grpc.testing's
// TestService, for the tests that have real clients talk to it.
package grpcecho

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"
)

// NewServer returns a server of the service, which describes itself by
// reflection.
func NewServer() *grpc.Server {
	s := grpc.NewServer()
	pb.RegisterTestServiceServer(s, service{})
	reflection.Register(s)
	return s
}

type service struct {
	pb.UnimplementedTestServiceServer
}

func (service) UnaryCall(_ context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	return &pb.SimpleResponse{Payload: r.Payload}, nil
}

func (service) FullDuplexCall(both grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	for {
		m, err := both.Recv()
		if errors.Is(err, io.EOF) {
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
