// gRPC for Node (@grpc/grpc-js): reads a Job on standard input, writes Outcomes.
import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { newOutcome, readJob, write } from "./job.mjs";

const ALGORITHMS = { deflate: 1, gzip: 2 };
const protos = process.env.PENSTOCK_PROTOS;
const definition = loader.loadSync(["grpc_service.proto", "health.proto"], {
  includeDirs: [protos],
  keepCase: true,
  longs: String,
  enums: String,
  bytes: String, // base64
});
const { inference, grpc: own } = grpc.loadPackageDefinition(definition);

function connect(job, Service) {
  const credentials = job.authority
    ? grpc.credentials.createSsl(readFileSync(job.authority))
    : grpc.credentials.createInsecure();
  const options = { "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 };
  if (job.compression) {
    options["grpc.default_compression_algorithm"] = ALGORITHMS[job.compression];
  }
  if (job.retries) {
    const retryPolicy = {
      maxAttempts: job.retries + 1,
      initialBackoff: "100s",
      maxBackoff: "100s",
      backoffMultiplier: 1,
      retryableStatusCodes: ["UNAVAILABLE"],
    };
    const name = [{ service: "inference.GRPCInferenceService" }];
    options["grpc.service_config"] = JSON.stringify({ methodConfig: [{ name, retryPolicy }] });
  }
  return new Service(job.target, credentials, options);
}

function metadata(job) {
  const made = new grpc.Metadata();
  for (const [name, value] of Object.entries(job.metadata)) {
    made.set(name, name.endsWith("-bin") ? Buffer.from(value, "base64") : value);
  }
  return made;
}

function options(job) {
  return job.timeoutMs ? { deadline: Date.now() + job.timeoutMs } : {};
}

function trailers(metadata) {
  const entries = Object.entries(metadata.getMap());
  return Object.fromEntries(
    entries.map(([name, value]) => [name, Buffer.isBuffer(value) ? value.toString("base64") : value]),
  );
}

function unary(start) {
  return new Promise((resolve) => {
    const outcome = newOutcome();
    const call = start((error, response) => {
      if (response?.status) outcome.health = response.status;
      else if (response) outcome.responses.push(response);
    });
    call.on("status", (status) => resolve(ended(outcome, status)));
  });
}

function ended(outcome, status) {
  outcome.code = status.code;
  outcome.message = status.code ? status.details : "";
  outcome.trailers = trailers(status.metadata);
  return outcome;
}

function stream(job, client) {
  return new Promise((resolve) => {
    const outcome = newOutcome();
    const call = client.ModelStreamInfer(metadata(job), options(job));
    const waiting = [...job.requests];
    const send = () => {
      if (waiting.length) call.write(waiting.shift());
      else if (!job.cancelAfter) call.end();
    };
    call.on("data", ({ error_message: error, infer_response: response }) => {
      if (error) outcome.errors.push(error);
      else outcome.responses.push(response);
      if (job.cancelAfter && outcome.responses.length === job.cancelAfter) call.cancel();
      if (job.pingPong) send();
    });
    call.on("error", () => {}); // the status says it too
    call.on("status", (status) => resolve(ended(outcome, status)));
    for (const _ of job.pingPong ? [1] : [...job.requests, "end"]) send();
  });
}

function watch(job, client) {
  return new Promise((resolve) => {
    const outcome = newOutcome();
    const call = client.Watch({ service: job.service }, metadata(job), options(job));
    call.on("data", ({ status }) => {
      outcome.health = status;
      call.cancel();
    });
    call.on("error", () => {});
    call.on("status", (status) => resolve(ended(outcome, status)));
  });
}

function unknown(job, client) {
  const same = (value) => value;
  const path = "/inference.GRPCInferenceService/Nonsense";
  return unary((done) => client.makeUnaryRequest(path, same, same, Buffer.alloc(0), done));
}

async function run(job) {
  const inferring = connect(job, inference.GRPCInferenceService);
  const health = connect(job, own.health.v1.Health);
  const [meta, how] = [metadata(job), options(job)];
  switch (job.call) {
    case "infer":
      return Promise.all(
        job.requests.map((r) => unary((done) => inferring.ModelInfer(r, meta, how, done))),
      );
    case "stream":
      return [await stream(job, inferring)];
    case "watch":
      return [await watch(job, health)];
    case "unknown":
      return [await unknown(job, inferring)];
    default:
      return [await unary((done) => health.Check({ service: job.service }, meta, how, done))];
  }
}

write(await run(readJob()));
