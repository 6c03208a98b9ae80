// gRPC for C++ (libgrpc++): reads a Job on standard input, writes Outcomes.
#include <google/protobuf/util/json_util.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>
#include <vector>

#include "grpc_service.grpc.pb.h"
#include "health.grpc.pb.h"
#include "interop.pb.h"

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using inference::GRPCInferenceService;
using interop::Job;
using interop::Outcome;

static const char* ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static std::string encode(const std::string& data) {
  std::string text;
  for (size_t at = 0; at < data.size(); at += 3) {
    unsigned bits = 0;
    for (size_t i = 0; i < 3; ++i)
      bits = bits << 8 | (at + i < data.size() ? uint8_t(data[at + i]) : 0);
    for (size_t i = 0; i < 4; ++i)
      text += at + i <= data.size() ? ALPHABET[bits >> (18 - 6 * i) & 63] : '=';
  }
  return text;
}

static std::string decode(const std::string& text) {
  std::string data;
  unsigned bits = 0, held = 0;
  for (char c : text) {
    if (c == '=') break;
    bits = bits << 6 | (std::string(ALPHABET).find(c));
    held += 6;
    if (held >= 8) data += char(bits >> (held -= 8) & 255);
  }
  return data;
}

static std::string slurp(std::istream& in) {
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

static bool is_binary(const std::string& name) {
  return name.size() > 4 && name.compare(name.size() - 4, 4, "-bin") == 0;
}

static std::shared_ptr<grpc::Channel> connect(const Job& job) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  if (job.retries()) {
    arguments.SetServiceConfigJSON(
        R"({"methodConfig":[{"name":[{"service":"inference.GRPCInferenceService"}],"retryPolicy":)"
        R"({"maxAttempts":)" + std::to_string(job.retries() + 1) +
        R"(,"initialBackoff":"100s","maxBackoff":"100s","backoffMultiplier":1,)"
        R"("retryableStatusCodes":["UNAVAILABLE"]}}]})");
  }
  auto credentials = grpc::InsecureChannelCredentials();
  if (!job.authority().empty()) {
    std::ifstream file(job.authority());
    credentials = grpc::SslCredentials({slurp(file), "", ""});
  }
  return grpc::CreateCustomChannel(job.target(), credentials, arguments);
}

static void prepare(grpc::ClientContext& context, const Job& job) {
  for (const auto& [name, value] : job.metadata())
    context.AddMetadata(name, is_binary(name) ? decode(value) : value);
  if (job.timeout_ms()) {
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::milliseconds(job.timeout_ms()));
  }
  if (job.compression() == "gzip") context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  if (job.compression() == "deflate") context.set_compression_algorithm(GRPC_COMPRESS_DEFLATE);
}

static void finish(Outcome& outcome, grpc::ClientContext& context, const grpc::Status& status) {
  outcome.set_code(status.error_code());
  outcome.set_message(status.error_message());
  for (const auto& [name, value] : context.GetServerTrailingMetadata()) {
    const std::string key(name.data(), name.size()), text(value.data(), value.size());
    (*outcome.mutable_trailers())[key] = is_binary(key) ? encode(text) : text;
  }
}

static void infer(const Job& job, GRPCInferenceService::Stub& stub, interop::Outcomes& outcomes) {
  std::vector<std::thread> threads;
  for (int i = 0; i < job.requests_size(); ++i) outcomes.add_outcomes();
  for (int i = 0; i < job.requests_size(); ++i) {
    threads.emplace_back([&job, &stub, i, &outcome = *outcomes.mutable_outcomes(i)] {
      grpc::ClientContext context;
      prepare(context, job);
      inference::ModelInferResponse response;
      const auto status = stub.ModelInfer(&context, job.requests(i), &response);
      if (status.ok()) *outcome.add_responses() = response;
      finish(outcome, context, status);
    });
  }
  for (auto& thread : threads) thread.join();
}

static void stream(const Job& job, GRPCInferenceService::Stub& stub, Outcome& outcome) {
  grpc::ClientContext context;
  prepare(context, job);
  auto call = stub.ModelStreamInfer(&context);
  inference::ModelStreamInferResponse response;
  const auto read = [&] {
    if (!call->Read(&response)) return false;
    if (response.error_message().empty())
      *outcome.add_responses() = response.infer_response();
    else
      outcome.add_errors(response.error_message());
    return true;
  };
  // Large requests are written while responses are read: neither side may wait for the other.
  std::thread writer([&] {
    if (job.ping_pong()) return;
    for (const auto& request : job.requests()) call->Write(request);
    if (!job.cancel_after()) call->WritesDone();
  });
  if (job.ping_pong()) {
    for (const auto& request : job.requests()) {
      if (!call->Write(request) || !read()) break;
    }
    call->WritesDone();
  }
  while (read()) {
    if (job.cancel_after() && outcome.responses_size() == job.cancel_after()) context.TryCancel();
  }
  writer.join();
  finish(outcome, context, call->Finish());
}

static void health(const Job& job, grpc::health::v1::Health::Stub& stub, Outcome& outcome) {
  grpc::ClientContext context;
  prepare(context, job);
  HealthCheckRequest request;
  request.set_service(job.service());
  HealthCheckResponse response;
  grpc::Status status;
  if (job.call() == "health") {
    status = stub.Check(&context, request, &response);
  } else {
    auto call = stub.Watch(&context, request);
    call->Read(&response);
    context.TryCancel();
    status = call->Finish();
  }
  outcome.set_health(HealthCheckResponse::ServingStatus_Name(response.status()));
  finish(outcome, context, status);
}

static void unknown(const Job& job, std::shared_ptr<grpc::Channel> channel, Outcome& outcome) {
  grpc::TemplatedGenericStub<HealthCheckRequest, HealthCheckResponse> stub(channel);
  grpc::ClientContext context;
  prepare(context, job);
  grpc::CompletionQueue queue;
  HealthCheckResponse response;
  grpc::Status status;
  auto call = stub.PrepareUnaryCall(&context, "/inference.GRPCInferenceService/Nonsense",
                                    HealthCheckRequest(), &queue);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  finish(outcome, context, status);
}

int main(int argc, char**) {
  if (argc > 1) {
    std::cout << grpc::Version() << std::endl;
    return 0;
  }
  Job job;
  const auto read = google::protobuf::util::JsonStringToMessage(slurp(std::cin), &job);
  if (!read.ok()) {
    std::cerr << read.ToString() << std::endl;
    return 1;
  }
  const auto channel = connect(job);
  const auto inference = GRPCInferenceService::NewStub(channel);
  interop::Outcomes outcomes;
  if (job.call() == "infer")
    infer(job, *inference, outcomes);
  else if (job.call() == "stream")
    stream(job, *inference, *outcomes.add_outcomes());
  else if (job.call() == "unknown")
    unknown(job, channel, *outcomes.add_outcomes());
  else
    health(job, *grpc::health::v1::Health::NewStub(channel), *outcomes.add_outcomes());
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(outcomes, &text).ok()) return 1;
  std::cout << text << std::endl;
}
