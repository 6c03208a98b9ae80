// gRPC for Java on Netty: reads a Job on standard input, writes Outcomes.
import com.google.common.io.BaseEncoding;
import com.google.protobuf.util.JsonFormat;
import grpc.health.v1.HealthGrpc;
import grpc.health.v1.HealthOuterClass.HealthCheckRequest;
import grpc.health.v1.HealthOuterClass.HealthCheckResponse;
import inference.GRPCInferenceServiceGrpc;
import inference.GrpcService.ModelInferRequest;
import inference.GrpcService.ModelInferResponse;
import inference.GrpcService.ModelStreamInferResponse;
import interop.Interop.Job;
import interop.Interop.Outcome;
import interop.Interop.Outcomes;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Compressor;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.internal.GrpcUtil;
import io.grpc.netty.GrpcSslContexts;
import io.grpc.netty.NettyChannelBuilder;
import java.io.File;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

public final class Client {
  private final Job job;
  private final ManagedChannel channel;

  private Client(Job job) throws Exception {
    this.job = job;
    NettyChannelBuilder builder =
        NettyChannelBuilder.forTarget(job.getTarget()).maxInboundMessageSize(1 << 30);
    if (job.getAuthority().isEmpty()) {
      builder.usePlaintext();
    } else {
      File authority = new File(job.getAuthority());
      builder.sslContext(GrpcSslContexts.forClient().trustManager(authority).build());
    }
    if (job.getRetries() > 0) {
      builder.enableRetry().defaultServiceConfig(retries(job.getRetries()));
    }
    channel = builder.build();
  }

  private static Map<String, ?> retries(int count) {
    Map<String, ?> policy =
        Map.of(
            "maxAttempts", count + 1.0,
            "initialBackoff", "100s",
            "maxBackoff", "100s",
            "backoffMultiplier", 1.0,
            "retryableStatusCodes", List.of("UNAVAILABLE"));
    Map<String, ?> name = Map.of("service", "inference.GRPCInferenceService");
    return Map.of("methodConfig", List.of(Map.of("name", List.of(name), "retryPolicy", policy)));
  }

  private Metadata metadata() {
    Metadata made = new Metadata();
    job.getMetadataMap().forEach(
        (name, value) -> {
          if (name.endsWith("-bin")) {
            byte[] data = BaseEncoding.base64().decode(value);
            made.put(Metadata.Key.of(name, Metadata.BINARY_BYTE_MARSHALLER), data);
          } else {
            made.put(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER), value);
          }
        });
    return made;
  }

  private CallOptions options() {
    CallOptions options = CallOptions.DEFAULT;
    if (job.getTimeoutMs() > 0) {
      options = options.withDeadlineAfter(job.getTimeoutMs(), TimeUnit.MILLISECONDS);
    }
    return job.getCompression().isEmpty() ? options : options.withCompression(job.getCompression());
  }

  // One call of any kind: requests go out at once or after the answer to the one before.
  private final class Calling<Q, R> extends ClientCall.Listener<R> {
    private final Outcome.Builder outcome = Outcome.newBuilder();
    private final CompletableFuture<Outcome> done = new CompletableFuture<>();
    private final ClientCall<Q, R> call;
    private final List<Q> waiting;

    Calling(MethodDescriptor<Q, R> method, List<Q> requests) {
      call = channel.newCall(method, options());
      waiting = new ArrayList<>(requests);
      call.start(this, metadata());
      call.request(1 << 20);
      boolean paced = job.getPingPong();
      send();
      while (!paced && !waiting.isEmpty()) send();
      if (!paced && job.getCancelAfter() == 0) call.halfClose();
    }

    private void send() {
      call.sendMessage(waiting.remove(0));
    }

    @Override
    public void onMessage(R message) {
      if (message instanceof HealthCheckResponse) {
        outcome.setHealth(((HealthCheckResponse) message).getStatus().name());
        if (job.getCall().equals("watch")) call.cancel("seen enough", null);
      } else if (message instanceof ModelInferResponse) {
        outcome.addResponses((ModelInferResponse) message);
      } else {
        streamed((ModelStreamInferResponse) message);
      }
    }

    private void streamed(ModelStreamInferResponse message) {
      if (message.getErrorMessage().isEmpty()) outcome.addResponses(message.getInferResponse());
      else outcome.addErrors(message.getErrorMessage());
      if (job.getCancelAfter() > 0 && outcome.getResponsesCount() == job.getCancelAfter()) {
        call.cancel("seen enough", null);
      }
      if (job.getPingPong()) {
        if (waiting.isEmpty()) call.halfClose();
        else send();
      }
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      outcome.setCode(status.getCode().value());
      if (!status.isOk() && status.getDescription() != null) {
        outcome.setMessage(status.getDescription());
      }
      for (String name : trailers.keys()) outcome.putTrailers(name, text(name, trailers));
      done.complete(outcome.build());
    }

    private String text(String name, Metadata trailers) {
      if (name.endsWith("-bin")) {
        byte[] data = trailers.get(Metadata.Key.of(name, Metadata.BINARY_BYTE_MARSHALLER));
        return BaseEncoding.base64().encode(data);
      }
      return trailers.get(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER));
    }
  }

  private Outcomes run() throws Exception {
    List<CompletableFuture<Outcome>> outcomes = new ArrayList<>();
    HealthCheckRequest asked =
        HealthCheckRequest.newBuilder().setService(job.getService()).build();
    switch (job.getCall()) {
      case "infer":
        for (ModelInferRequest request : job.getRequestsList()) {
          outcomes.add(
              new Calling<>(GRPCInferenceServiceGrpc.getModelInferMethod(), List.of(request)).done);
        }
        break;
      case "stream":
        outcomes.add(
            new Calling<>(
                    GRPCInferenceServiceGrpc.getModelStreamInferMethod(), job.getRequestsList())
                .done);
        break;
      case "watch":
        outcomes.add(new Calling<>(HealthGrpc.getWatchMethod(), List.of(asked)).done);
        break;
      case "unknown":
        MethodDescriptor<HealthCheckRequest, HealthCheckResponse> nonsense =
            HealthGrpc.getCheckMethod().toBuilder()
                .setFullMethodName("inference.GRPCInferenceService/Nonsense")
                .build();
        outcomes.add(new Calling<>(nonsense, List.of(asked)).done);
        break;
      default:
        outcomes.add(new Calling<>(HealthGrpc.getCheckMethod(), List.of(asked)).done);
    }
    Outcomes.Builder all = Outcomes.newBuilder();
    for (CompletableFuture<Outcome> outcome : outcomes) all.addOutcomes(outcome.get());
    channel.shutdownNow();
    return all.build();
  }

  public static void main(String[] arguments) throws Exception {
    if (arguments.length > 0) {
      System.out.println(GrpcUtil.getGrpcBuildVersion().getImplementationVersion());
      return;
    }
    Job.Builder job = Job.newBuilder();
    JsonFormat.parser().merge(new InputStreamReader(System.in, StandardCharsets.UTF_8), job);
    byte[] said = JsonFormat.printer().print(new Client(job.build()).run()).getBytes("UTF-8");
    System.out.write(said, 0, said.length);
    System.out.flush();
    System.exit(0);
  }
}
