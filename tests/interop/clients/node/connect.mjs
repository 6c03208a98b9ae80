// Connect for Node (@connectrpc/connect-node) speaking gRPC over node:http2: reads a Job on standard
// input, writes Outcomes. Its messages come from the server's descriptors, without generated code.
import { readFileSync } from "node:fs";
import { createFileRegistry, fromBinary, fromJson, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { compressionGzip, createGrpcTransport } from "@connectrpc/connect-node";
import { newOutcome, readJob, write } from "./job.mjs";

const descriptors = `${process.env.PENSTOCK_PROTOS}/penstock_protos/descriptors.binpb`;
const registry = createFileRegistry(
  fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)),
);
const Request = registry.getMessage("inference.ModelInferRequest");
const Response = registry.getMessage("inference.ModelInferResponse");
const STATUS = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

function connect(job) {
  return createGrpcTransport({
    baseUrl: `${job.authority ? "https" : "http"}://${job.target}`,
    nodeOptions: job.authority ? { ca: readFileSync(job.authority) } : {},
    sendCompression: job.compression === "gzip" ? compressionGzip : null,
    acceptCompression: [compressionGzip],
    compressMinBytes: 0,
  });
}

function options(job, outcome, abort) {
  const note = (headers) => headers.forEach((value, name) => (outcome.trailers[name] = padded(name, value)));
  return {
    headers: job.metadata,
    timeoutMs: job.timeoutMs || undefined,
    signal: abort?.signal,
    onTrailer: note,
  };
}

// Binary values stay in base64 here, but padding is optional on the wire.
function padded(name, value) {
  return name.endsWith("-bin") ? Buffer.from(value, "base64").toString("base64") : value;
}

async function outcomeOf(run) {
  const outcome = newOutcome();
  try {
    await run(outcome);
  } catch (thrown) {
    const error = ConnectError.from(thrown);
    outcome.code = error.code ?? Code.Unknown;
    outcome.message = error.rawMessage;
    error.metadata.forEach((value, name) => (outcome.trailers[name] = padded(name, value)));
  }
  return outcome;
}

const note = (outcome, response) => outcome.responses.push(toJson(Response, response, { useProtoFieldName: true }));

function infer(job, client, request) {
  return outcomeOf(async (outcome) => {
    note(outcome, await client.modelInfer(fromJson(Request, request), options(job, outcome)));
  });
}

function stream(job, client) {
  const abort = new AbortController();
  return outcomeOf(async (outcome) => {
    let answered = () => {};
    async function* requests() {
      for (const request of job.requests) {
        const answer = new Promise((resolve) => (answered = resolve));
        yield fromJson(Request, request);
        if (job.pingPong) await answer;
      }
      if (job.cancelAfter) await new Promise((resolve) => abort.signal.addEventListener("abort", resolve));
    }
    for await (const response of client.modelStreamInfer(requests(), options(job, outcome, abort))) {
      if (response.errorMessage) outcome.errors.push(response.errorMessage);
      else note(outcome, response.inferResponse);
      if (job.cancelAfter && outcome.responses.length === job.cancelAfter) abort.abort();
      answered();
    }
  });
}

function health(job, client) {
  return outcomeOf(async (outcome) => {
    const { status } = await client.check({ service: job.service }, options(job, outcome));
    outcome.health = STATUS[status];
  });
}

function watch(job, client) {
  const abort = new AbortController();
  return outcomeOf(async (outcome) => {
    for await (const { status } of client.watch({ service: job.service }, options(job, outcome, abort))) {
      outcome.health = STATUS[status];
      abort.abort();
    }
  });
}

// A method that the server does not have, with the name and types of one that it does.
function unknown(job, transport) {
  const method = registry.getService("inference.GRPCInferenceService").method.modelInfer;
  return outcomeOf((outcome) =>
    transport.unary({ ...method, name: "Nonsense" }, undefined, undefined, undefined, {}),
  );
}

async function run(job) {
  const transport = connect(job);
  const inferring = createClient(registry.getService("inference.GRPCInferenceService"), transport);
  const checking = createClient(registry.getService("grpc.health.v1.Health"), transport);
  switch (job.call) {
    case "infer":
      return Promise.all(job.requests.map((request) => infer(job, inferring, request)));
    case "stream":
      return [await stream(job, inferring)];
    case "watch":
      return [await watch(job, checking)];
    case "unknown":
      return [await unknown(job, transport)];
    default:
      return [await health(job, checking)];
  }
}

write(await run(readJob()));
