// What users do with @huggingface/hub: each line of the input is a call, and is answered with a line.
//
// A call is {"do": NAME, "given": {...}}. Of an answer that comes by and by all is collected, of a file its size, its
// digest and, where asked for, its text. Files to send are given as {"path", "text"}, or as {"file": PATH}.
import { createHash } from "node:crypto";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import * as hub from "@huggingface/hub";

console.debug = () => {}; // what the client says beside is not among the answers
const at = { hubUrl: process.env.HF_ENDPOINT, ...(process.env.HF_TOKEN ? { accessToken: process.env.HF_TOKEN } : {}) };

function content(one) {
	return one.file ? pathToFileURL(one.file) : { path: one.path, content: new Blob([one.text]) };
}

function made({ file, files, operations, ...given }) {
	return {
		...given,
		...(file ? { file: content(file) } : {}),
		...(files ? { files: files.map(content) } : {}),
		...(operations ? { operations: operations.map((one) => ({ ...one, ...(one.text ? content(one) : {}) })) } : {}),
	};
}

async function told(value) {
	if (value instanceof Blob) {
		const data = Buffer.from(await value.arrayBuffer());
		return { size: value.size, sha256: createHash("sha256").update(data).digest("hex"), text: data.toString("latin1") };
	}
	if (value?.[Symbol.asyncIterator]) {
		const all = [];
		for (let next = await value.next(); !(next.done && next.value === undefined); next = await value.next()) {
			all.push(next.value);
			if (next.done) break;
		}
		return all;
	}
	return value ?? null;
}

for await (const line of createInterface({ input: process.stdin })) {
	const { do: name, given } = JSON.parse(line);
	let answer;
	try {
		answer = { value: await told(await hub[name]({ ...at, ...made(given) })) };
	} catch (error) {
		answer = { error: error.message, status: error.statusCode ?? null, kind: error.constructor.name };
	}
	console.log(JSON.stringify(answer));
}
