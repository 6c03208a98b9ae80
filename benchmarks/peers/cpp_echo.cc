// gRPC in C++ at its plainest: an asynchronous ModelInfer that parses a request and gives its inputs
// back as outputs. One completion queue, one thread, calls and messages used again.
//
//   cpp_echo ADDRESS:PORT [CERTIFICATE KEY]
#include <grpcpp/grpcpp.h>

#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "grpc_service.grpc.pb.h"

using grpc::ServerAsyncResponseWriter;
using grpc::ServerCompletionQueue;
using grpc::ServerContext;
using inference::GRPCInferenceService;
using inference::ModelInferRequest;
using inference::ModelInferResponse;

// More than any load has in flight, so that an arriving call never waits to be asked for.
static const int WAITING = 256;

// One call after the other: asked for, answered, asked for again.
class Call {
 public:
  Call(GRPCInferenceService::AsyncService& service, ServerCompletionQueue& queue)
      : service_(service), queue_(queue) {
    ask();
  }

  void proceed(bool ok) {
    if (!answering_ && !ok) return;  // the server shuts down
    answering_ ? ask() : answer();
  }

 private:
  void ask() {
    answering_ = false;
    writer_.reset();
    context_.emplace();
    writer_.emplace(&*context_);
    service_.RequestModelInfer(&*context_, &request_, &*writer_, &queue_, &queue_, this);
  }

  void answer() {
    answering_ = true;
    response_.Clear();
    response_.set_model_name(request_.model_name());
    response_.set_model_version("1");
    response_.set_id(request_.id());
    for (const auto& input : request_.inputs()) {
      auto* output = response_.add_outputs();
      output->set_name("OUTPUT" + input.name().substr(input.name().find_last_not_of("0123456789") + 1));
      output->set_datatype(input.datatype());
      output->mutable_shape()->CopyFrom(input.shape());
    }
    response_.mutable_raw_output_contents()->Swap(request_.mutable_raw_input_contents());
    writer_->Finish(response_, grpc::Status::OK, this);
  }

  GRPCInferenceService::AsyncService& service_;
  ServerCompletionQueue& queue_;
  std::optional<ServerContext> context_;
  std::optional<ServerAsyncResponseWriter<ModelInferResponse>> writer_;
  ModelInferRequest request_;
  ModelInferResponse response_;
  bool answering_ = false;
};

static std::string read(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

static std::shared_ptr<grpc::ServerCredentials> credentials(int count, char** words) {
  if (count < 4) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options;
  options.pem_key_cert_pairs.push_back({read(words[3]), read(words[2])});
  return grpc::SslServerCredentials(options);
}

int main(int count, char** words) {
  if (count != 2 && count != 4) {
    std::cerr << "cpp_echo ADDRESS:PORT [CERTIFICATE KEY]\n";
    return 2;
  }
  GRPCInferenceService::AsyncService service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(words[1], credentials(count, words));
  builder.SetMaxReceiveMessageSize(-1);
  builder.RegisterService(&service);
  auto queue = builder.AddCompletionQueue();
  auto server = builder.BuildAndStart();
  if (!server) return 1;
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < WAITING; ++i) calls.push_back(std::make_unique<Call>(service, *queue));
  void* tag = nullptr;
  for (bool ok = false; queue->Next(&tag, &ok);) static_cast<Call*>(tag)->proceed(ok);
}
