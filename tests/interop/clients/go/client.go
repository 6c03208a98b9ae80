// grpc-go: reads a Job on standard input, writes Outcomes.
package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/golang/protobuf/jsonpb"
	"github.com/golang/protobuf/proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"penstock/pb"
)

const retryConfig = `{"methodConfig":[{"name":[{"service":"inference.GRPCInferenceService"}],
"retryPolicy":{"maxAttempts":%d,"initialBackoff":"100s","maxBackoff":"100s",
"backoffMultiplier":1,"retryableStatusCodes":["UNAVAILABLE"]}}]}`

func main() {
	if len(os.Args) > 1 {
		fmt.Println(grpc.Version)
		return
	}
	job := &pb.Job{}
	must(jsonpb.Unmarshal(os.Stdin, job))
	channel := connect(job)
	must((&jsonpb.Marshaler{}).Marshal(os.Stdout, &pb.Outcomes{Outcomes: run(job, channel)}))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func connect(job *pb.Job) *grpc.ClientConn {
	options := []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)),
	}
	if job.Authority == "" {
		options = append(options, grpc.WithInsecure())
	} else {
		secure, err := credentials.NewClientTLSFromFile(job.Authority, "")
		must(err)
		options = append(options, grpc.WithTransportCredentials(secure))
	}
	if job.Retries > 0 {
		config := fmt.Sprintf(retryConfig, job.Retries+1)
		options = append(options, grpc.WithDefaultServiceConfig(config))
	}
	channel, err := grpc.Dial(job.Target, options...)
	must(err)
	return channel
}

func run(job *pb.Job, channel *grpc.ClientConn) []*pb.Outcome {
	switch job.Call {
	case "infer":
		return infer(job, pb.NewGRPCInferenceServiceClient(channel))
	case "stream":
		return []*pb.Outcome{stream(job, pb.NewGRPCInferenceServiceClient(channel))}
	case "watch":
		return []*pb.Outcome{watch(job, health.NewHealthClient(channel))}
	case "unknown":
		return []*pb.Outcome{unknown(job, channel)}
	default:
		return []*pb.Outcome{check(job, health.NewHealthClient(channel))}
	}
}

func isBinary(name string) bool { return strings.HasSuffix(name, "-bin") }

// The context and the options of a call, and what to call when it is over.
func prepare(job *pb.Job) (context.Context, context.CancelFunc, []grpc.CallOption) {
	ctx, cancel := context.WithCancel(context.Background())
	if job.TimeoutMs > 0 {
		timeout := time.Duration(job.TimeoutMs) * time.Millisecond
		ctx, cancel = context.WithTimeout(ctx, timeout)
	}
	for name, value := range job.Metadata {
		if isBinary(name) {
			decoded, err := base64.StdEncoding.DecodeString(value)
			must(err)
			value = string(decoded)
		}
		ctx = metadata.AppendToOutgoingContext(ctx, name, value)
	}
	options := []grpc.CallOption{}
	if job.Compression == "gzip" {
		options = append(options, grpc.UseCompressor(gzip.Name))
	}
	return ctx, cancel, options
}

func finish(outcome *pb.Outcome, err error, trailers metadata.MD) *pb.Outcome {
	ended := status.Convert(err)
	outcome.Code, outcome.Message = int32(ended.Code()), ended.Message()
	outcome.Trailers = map[string]string{}
	for name, values := range trailers {
		value := strings.Join(values, ",")
		if isBinary(name) {
			value = base64.StdEncoding.EncodeToString([]byte(value))
		}
		outcome.Trailers[name] = value
	}
	if len(ended.Proto().GetDetails()) > 0 {
		// It takes this trailer apart and keeps it out of the others.
		packed, err := proto.Marshal(ended.Proto())
		must(err)
		outcome.Trailers["grpc-status-details-bin"] = base64.StdEncoding.EncodeToString(packed)
	}
	return outcome
}

func infer(job *pb.Job, client pb.GRPCInferenceServiceClient) []*pb.Outcome {
	outcomes := make([]*pb.Outcome, len(job.Requests))
	var calls sync.WaitGroup
	for i := range job.Requests {
		calls.Add(1)
		go func(i int) {
			defer calls.Done()
			outcome, trailers := &pb.Outcome{}, metadata.MD{}
			ctx, cancel, options := prepare(job)
			defer cancel()
			options = append(options, grpc.Trailer(&trailers))
			response, err := client.ModelInfer(ctx, job.Requests[i], options...)
			if err == nil {
				outcome.Responses = append(outcome.Responses, response)
			}
			outcomes[i] = finish(outcome, err, trailers)
		}(i)
	}
	calls.Wait()
	return outcomes
}

func stream(job *pb.Job, client pb.GRPCInferenceServiceClient) *pb.Outcome {
	outcome := &pb.Outcome{}
	ctx, cancel, options := prepare(job)
	defer cancel()
	call, err := client.ModelStreamInfer(ctx, options...)
	must(err)
	answered := make(chan bool, 10000)
	go func() {
		for number, request := range job.Requests {
			if job.PingPong && number > 0 {
				<-answered
			}
			call.Send(request)
		}
		if job.CancelAfter == 0 {
			call.CloseSend()
		}
	}()
	for {
		message, err := call.Recv()
		if err != nil {
			if err.Error() == "EOF" {
				err = nil
			}
			return finish(outcome, err, call.Trailer())
		}
		if message.ErrorMessage != "" {
			outcome.Errors = append(outcome.Errors, message.ErrorMessage)
		} else {
			outcome.Responses = append(outcome.Responses, message.InferResponse)
		}
		if job.CancelAfter > 0 && len(outcome.Responses) == int(job.CancelAfter) {
			cancel()
		}
		answered <- true
	}
}

func check(job *pb.Job, client health.HealthClient) *pb.Outcome {
	ctx, cancel, options := prepare(job)
	defer cancel()
	response, err := client.Check(ctx, &health.HealthCheckRequest{Service: job.Service}, options...)
	return finish(&pb.Outcome{Health: response.GetStatus().String()}, err, nil)
}

func watch(job *pb.Job, client health.HealthClient) *pb.Outcome {
	ctx, cancel, options := prepare(job)
	call, err := client.Watch(ctx, &health.HealthCheckRequest{Service: job.Service}, options...)
	must(err)
	response, err := call.Recv()
	must(err)
	cancel()
	_, err = call.Recv()
	return finish(&pb.Outcome{Health: response.Status.String()}, err, call.Trailer())
}

func unknown(job *pb.Job, channel *grpc.ClientConn) *pb.Outcome {
	ctx, cancel, options := prepare(job)
	defer cancel()
	request, response := &pb.ServerLiveRequest{}, &pb.ServerLiveResponse{}
	err := channel.Invoke(ctx, "/inference.GRPCInferenceService/Nonsense", request, response, options...)
	return finish(&pb.Outcome{}, err, nil)
}
