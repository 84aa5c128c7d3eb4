// What `kubectl kustomize` makes of deploy/kubernetes, and the alerts, on standard input, against the types of Kubernetes, KEDA and the
// Prometheus operator: no field that isn't one of theirs, no value that doesn't fit. Then what no schema can tell. Exits 1 with every
// fault.
//
//   { kubectl kustomize deploy/kubernetes; echo ---; deploy/prometheus/rule.sh; } | node check.mjs REPOSITORY
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual } from "node:util";
import ts from "typescript";
import { parse, parseAllDocuments } from "yaml";

const root = process.argv[2];
const text = (path) => readFileSync(`${root}/${path}`, "utf8");
const faults = [];
const objects = parseAllDocuments(readFileSync(0, "utf8")).map((document) => document.toJS());
if (objects.length === 0) faults.push("nothing was built");

// The types know every field: TypeScript refuses an object literal that has another one.
const MODULES = {
  "keda.sh": "@kubernetes-models/keda/keda.sh",
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator/monitoring.coreos.com",
};
const named = objects.map((object) => {
  const [version, group] = object.apiVersion.split("/").reverse();
  const module = group in MODULES ? MODULES[group] : `kubernetes-models${group ? `/${group}` : ""}`;
  return { object, module: `${module}/${version}`, name: `${object.kind}/${object.metadata.name}` };
});
const source = named.map(({ object, module }, n) => [
  `import type { I${object.kind} as T${n} } from ${JSON.stringify(module)};`,
  `export const o${n}: T${n} = ${JSON.stringify(object)};`,
]);
const FILE = fileURLToPath(new URL("objects.mts", import.meta.url));
const options = { strict: true, noEmit: true, skipLibCheck: true, types: [], target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext };
const host = ts.createCompilerHost(options);
const read = host.getSourceFile, exists = host.fileExists;
host.fileExists = (file) => file === FILE || exists(file);
host.getSourceFile = (file, ...rest) =>
  file === FILE ? ts.createSourceFile(file, source.flat().join("\n"), ts.ScriptTarget.ES2022, true) : read(file, ...rest);
for (const { file, start, messageText } of ts.getPreEmitDiagnostics(ts.createProgram([FILE], options, host))) {
  const line = file?.getLineAndCharacterOfPosition(start).line ?? 0;
  faults.push(`${named[line >> 1].name}: ${ts.flattenDiagnosticMessageText(messageText, " ")}`);
}
// Patterns and ranges are no types.
for (const { object, module, name } of named) {
  try {
    new (await import(module))[object.kind](object).validate();
  } catch (error) {
    faults.push(`${name}: ${error.message}`);
  }
}

const tell = () => {
  faults.forEach((fault) => console.error(fault));
  console.log(`${objects.length} objects, ${faults.length} faults`);
  process.exit(faults.length === 0 ? 0 : 1);
};
if (faults.length > 0) tell();

const of = (kind) => objects.filter((object) => object.kind === kind);
const [workers] = of("Deployment");
const pod = workers.spec.template;
const chosen = (selector) => Object.entries(selector).every(([key, value]) => pod.metadata.labels[key] === value);
const selectors = [
  ["Deployment", workers.spec.selector.matchLabels],
  ...of("Service").map((service) => [`Service ${service.metadata.name}`, service.spec.selector]),
  ...of("PodDisruptionBudget").map((budget) => ["PodDisruptionBudget", budget.spec.selector.matchLabels]),
  ...of("PodMonitor").map((monitor) => ["PodMonitor", monitor.spec.selector.matchLabels]),
];
for (const [who, selector] of selectors) if (!chosen(selector)) faults.push(`${who} doesn't choose the workers`);
const ports = pod.spec.containers.flatMap((container) => container.ports.map((port) => port.name));
const wanted = [
  ...of("Service").flatMap((service) => service.spec.ports.map((port) => port.targetPort)),
  ...of("PodMonitor").flatMap((monitor) => monitor.spec.podMetricsEndpoints.map((endpoint) => endpoint.port)),
];
for (const port of wanted) if (!ports.includes(port)) faults.push(`no port of the workers is named ${port}`);
// Labels that kustomize adds to selectors would land on those of other people's pods, such as the cluster's DNS.
for (const policy of of("NetworkPolicy")) {
  if (!isDeepStrictEqual(policy.spec, parse(text("deploy/kubernetes/networkpolicy.yaml")).spec))
    faults.push("kustomize changed what the network policy lets through");
}
if (!of("PrometheusRule").some((rule) => isDeepStrictEqual(rule.spec, parse(text("deploy/prometheus/alerts.yaml")))))
  faults.push("no rule says what alerts.yaml says");
// The release workflow names the image by the tag.
const version = /^version = "(.+)"$/m.exec(text("Cargo.toml"))[1];
const containers = [...of("Deployment"), ...of("Job")].flatMap((object) => object.spec.template.spec.containers);
for (const container of containers)
  if (!container.image.endsWith(`:v${version}`)) faults.push(`${container.image} isn't what a release of ${version} is called`);
// What the image is built from is let through to the builder.
const context = text(".dockerignore").split("\n").filter((line) => line.startsWith("!")).map((line) => line.slice(1));
for (const [, sources] of text("deploy/Dockerfile").matchAll(/^COPY (?!--from)(.+) \S+$/gm))
  for (const path of sources.split(" "))
    if (!context.includes(path)) faults.push(`Dockerfile copies ${path}, which .dockerignore keeps out`);
// Compose makes an empty folder of a file that isn't there.
const compose = parse(text("deploy/compose/compose.yaml"), { merge: true });
for (const [name, service] of Object.entries(compose.services))
  for (const [path] of (service.volumes ?? []).map((volume) => volume.split(":")))
    if (path.startsWith(".") && !existsSync(`${root}/deploy/compose/${path}`)) faults.push(`${name} mounts ${path}, which isn't there`);
// A campaign of an agent that the stand-in doesn't have calls nobody.
const agents = (path) => new Set([...text(path).matchAll(/^model_id = "(.+)"$/gm)].map(([, id]) => id));
const [rules] = compose.services.routing.volumes[0].split(":");
for (const id of agents(`deploy/compose/${rules}`))
  if (!agents("config/sandbox.toml").has(id)) faults.push(`the stand-in has no agent ${id}`);
// A variable that the program doesn't know sets nothing.
const known = `${text("deploy/docs/configuration.md")} \`OUTDIAL_CONFIG\``;
const set = (path) => [...text(path).matchAll(/\b([A-Z]+_[A-Z_]+?)(_FILE)?=/g)].map(([, name]) => name);
const variables = new Set([
  ...containers.flatMap((container) => container.env.map((variable) => variable.name)),
  ...Object.values(compose.services).filter(({ image }) => image === "outdial").flatMap(({ environment }) => Object.keys(environment)),
  ...set("deploy/Dockerfile"),
  ...set("deploy/systemd/outdial.service"),
]);
for (const name of variables)
  if (!known.includes(`\`${name.replace("__DEFAULT__", "__NAME__")}\``)) faults.push(`nobody reads ${name}`);

tell();
