// One run of a GGUF file in llama.cpp on the processor: prints its figures as JSON.
// node run_llama_cpp.mjs PACKAGE FILE HISTORY DECODE LIMIT THREADS
import {pathToFileURL} from "node:url";
import path from "node:path";

const [packageFolder, file, ...numbers] = process.argv.slice(2);
const [history, decode, limit, threads] = numbers.map(Number);
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(path.join(packageFolder, "dist/index.js")).href);

const seconds = () => performance.now() / 1000;
const begun = seconds();
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, maxThreads: threads, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: file, gpuLayers: 0});
const context = await model.createContext({contextSize: limit, threads: {ideal: threads, min: threads}});
const sequence = context.getSequence();
const loaded = seconds();

// Any tokens do; the last goes in with the first step of decoding, as in other runtimes.
const tokens = Array.from({length: history}, (_, index) => 1 + ((index * 7919) % 40000));
await sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(0, -1));
const read = seconds();

let first = 0, count = 0;
for await (const _ of sequence.evaluate(tokens.slice(-1), {temperature: 0, yieldEogToken: true})) {
    if (count++ === 0) first = seconds();
    if (count === decode) break;
}
const done = seconds();
if (count !== decode) throw new Error(`${count} tokens out instead of ${decode}`);
console.log(JSON.stringify({
    prefill: (history - 1) / (read - loaded),
    decode: decode / (done - read),
    first_token_seconds: first - loaded,
    load_seconds: loaded - begun
}));
process.exit(0);
