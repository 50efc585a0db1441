// The page of a run: facts, failure, evaluations, small plots of its log, videos, recipe and provenance.

function runPage(index) {
  const run = data.runs[index];
  const where = run.seed === undefined ? run.path : `${run.label}, ${run.task}, seed ${run.seed}`;
  const near = (step, word) => {
    const other = data.runs[index + step];
    return other ? el("a", {href: `#run=${encodeURI(other.path)}`, rel: step < 0 ? "prev" : "next"}, word) : null;
  };
  return [
    el("nav", {class: "crumbs", "aria-label": "Runs"}, el("a", {href: "#runs"}, "All runs"), near(-1, "Previous run"), near(1, "Next run")),
    el("h2", {id: "run-title", tabindex: "-1"}, where),
    el("p", {class: "path"}, el("code", {}, run.path), " ", el("span", {class: `status ${run.status}`}, run.status)),
    [...run.problems, ...run.notes].map((text) => el("p", {class: "problem"}, text)),
    runFacts(run), runFailure(run), runEvaluations(run), runMedia(run), runMetrics(run), runRecipe(run), runProvenance(run),
  ].flat().filter(Boolean);
}

function list(pairs) {
  return el("dl", {class: "facts"}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function runFacts(run) {
  const made = run.provenance;
  const git = made.git || {};
  const torch = made.torch || {};
  const seconds = run.outcome.wall_seconds;
  return list([
    ["Corpus", run.corpus], ["Scale", run.scale], ["Budget", run.budget === undefined ? null : `${plainNumber(run.budget)} env_steps`],
    ["Wall time", seconds ? `${(seconds / 60).toFixed(1)} minutes, with evaluation` : null],
    ["Code", git.commit ? [el("code", {}, git.commit.slice(0, 12)), git.dirty ? " with local changes" : ""] : null],
    ["Command", made.command ? el("code", {}, made.command.map(quoted).join(" ")) : null],
    ["Versions", ["pvdr_bench", "python"].filter((key) => made[key]).map((key) => `${key} ${made[key]}`)
      .concat(torch.version ? [`torch ${torch.version}`] : []).join(", ")],
    ["Machine", [made.cpu, made.cores ? `${made.cores} cores` : "", (torch.devices || []).join(", ")].filter(Boolean).join("; ")],
    ["Starts", run.resumes.length ? `${run.resumes.length + 1}: it was continued` : null],
    ["Tuning", run.tuning],
  ]);
}

function quoted(word) { return /^[\w@%+=:,./…~-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`; }

function runFailure(run) {
  if (!run.failure) return null;
  return el("section", {class: "failure", "aria-labelledby": "failure-title"},
    el("h3", {id: "failure-title"}, "Failure"), el("p", {}, `${run.failure.error}: ${run.failure.message}`),
    el("pre", {tabindex: "0", "aria-label": "Traceback"}, run.failure.traceback || "There is no traceback."));
}

function runEvaluations(run) {
  if (!run.points.length) return [el("h3", {}, "Evaluations"), el("p", {}, "There is none.")];
  const rate = (value) => (value === null ? null : {node: (100 * value).toFixed(1), key: value});
  const rows = run.points.map((point) => [
    point.env_steps, point.point + (point.complete ? "" : " (not whole)"), point.episodes, rate(point.success_any), rate(point.success_end),
    point.return === null ? null : {node: point.return.toFixed(2), key: point.return}, Number(point.length.toFixed(1))]);
  return [el("h3", {}, "Evaluations"), tableOf("Evaluations of this run",
    ["env_steps", "point", "episodes", "success at any step, %", "at the end, %", "mean return", "mean length"], rows)];
}

function runMedia(run) {
  const mine = data.media.map((medium, index) => ({...medium, index})).filter((medium) => medium.run === run.path);
  if (!mine.length) return null;
  const show = (medium) => {
    if (medium.why) return el("p", {class: "note"}, `${medium.name} was left out: ${medium.why}.`);
    const source = `data:${medium.type};base64,${document.getElementById(`medium-${medium.index}`).textContent}`;
    const label = `${medium.name} of ${run.path}`;
    const picture = medium.type.startsWith("video/")
      ? el("video", {controls: true, loop: true, playsinline: true, preload: "metadata", src: source, "aria-label": label})
      : el("img", {src: source, alt: label});
    return el("figure", {class: "medium"}, picture, el("figcaption", {}, [medium.caption, `${medium.name}, ${medium.size}`].filter(Boolean).join(" ")));
  };
  const numbers = Object.entries(run.inspected).map(([name, entry]) => folded(`What ${name} measures`, () => keyTable(entry.title, entry.numbers)));
  return [el("h3", {}, "Videos, plans and pictures"), el("div", {class: "media"}, mine.map(show)), ...numbers];
}

function runMetrics(run) {
  if (!run.metrics.length) return null;
  const groups = [...new Set(run.metrics.map((metric) => metric.group))];
  return [el("h3", {}, "Training log"), el("p", {class: "note"}, "Against env_steps; the dot is the last value."), groups.map((group) => {
    const mine = run.metrics.filter((metric) => metric.group === group);
    return [el("h4", {}, group), el("div", {class: "sparks"}, mine.map((metric) => spark(metric))),
      folded(`Numbers: ${group.toLowerCase()}`, () => [metricFacts(group, mine), metricPoints(group, mine)])];
  })].flat(3);
}

function spark(metric) {
  const [width, height, pad] = [220, 84, 6];
  const said = metric.count
    ? `${metric.name}: ${metric.count} values, first ${plainNumber(metric.first)}, last ${plainNumber(metric.last)}, lowest ${plainNumber(metric.low)}, highest ${plainNumber(metric.high)}`
    : `${metric.name}: no finite value`;
  const right = Math.max(1, ...metric.x);
  const spread = metric.high - metric.low;
  const x = (value) => pad + (value / right) * (width - 2 * pad);
  const y = (value) => (spread ? height - pad - ((value - metric.low) / spread) * (height - 2 * pad) : height / 2);
  const points = metric.x.map((value, i) => `${x(value).toFixed(1)},${y(metric.y[i]).toFixed(1)}`);
  const last = metric.x.length - 1;
  return el("figure", {class: "spark"},
    el("figcaption", {}, el("span", {class: "name"}, metric.name), el("span", {class: "last"}, metric.count ? plainNumber(metric.last) : "–")),
    svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said},
      svg("line", {class: "axis", x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5}),
      last >= 0 ? svg("path", {class: "trace", d: "M" + points.join("L")}) : null,
      last >= 0 ? svg("circle", {class: "end", cx: x(metric.x[last]), cy: y(metric.y[last]), r: 2.6}) : null),
    el("p", {class: "range"}, metric.count ? `${plainNumber(metric.low)} to ${plainNumber(metric.high)}` : "no finite value",
      metric.bad ? `; ${metric.bad} not finite` : ""));
}

function metricFacts(group, metrics) {
  return tableOf(`${group}: what was logged`, ["metric", "values", "first", "last", "lowest", "highest", "not finite"],
    metrics.map((m) => [m.name, m.count, m.first ?? null, m.last ?? null, m.low ?? null, m.high ?? null, m.bad]));
}

function metricPoints(group, metrics) {
  const steps = [...new Set(metrics.flatMap((metric) => metric.x))].sort((a, b) => a - b);
  const cells = metrics.map((metric) => {
    const at = new Map();
    metric.x.forEach((x, i) => at.set(x, [...(at.get(x) || []), metric.y[i]]));
    return at;
  });
  const shown = (values) => (values === undefined ? null : values.length === 1 ? values[0] : values.map(plainNumber).join("; "));
  return tableOf(`${group}: the points of the plots`, ["env_steps", ...metrics.map((metric) => metric.name)],
    steps.map((step) => [step, ...cells.map((at) => shown(at.get(step)))]));
}

// {model: {heads: 2}} -> ["model.heads", "2"]
function flattened(value, key = "") {
  if (value === null || typeof value !== "object") return [[key, String(value)]];
  if (Array.isArray(value)) return [[key, JSON.stringify(value)]];
  return Object.entries(value).flatMap(([name, inner]) => flattened(inner, key ? `${key}.${name}` : name));
}

function keyTable(caption, content) {
  return tableOf(caption, ["key", "value"], flattened(content).map(([key, value]) => [el("code", {}, key), value]));
}

function runRecipe(run) {
  const recipe = data.recipes[run.recipe];
  if (!recipe) return null;
  const same = data.runs.filter((other) => other.recipe === run.recipe).length;
  const {config, protocol, ...rest} = recipe;
  return [el("h3", {}, "Recipe"),
    el("p", {class: "note"}, `Everything that determines a result, but the seed. ${same} run${same === 1 ? " has" : "s have"} this recipe.`),
    folded("Method", () => keyTable("The method's configuration", config || {})),
    folded("Protocol", () => keyTable("The protocol", protocol || {})),
    folded("Task and the rest", () => keyTable("Task and the rest of the recipe", rest))];
}

function runProvenance(run) {
  const parts = [el("h3", {}, "Provenance")];
  if (Object.keys(run.provenance).length) parts.push(folded("First start", () => keyTable("What the run was first made with", run.provenance)));
  if (run.resumes.length) parts.push(folded("Later starts", () => run.resumes.map((changed, i) => keyTable(`What differed at start ${i + 2}`, changed))));
  if (run.packages) parts.push(folded("Installed packages", () => keyTable("Installed packages", data.packages[run.packages])));
  if (Object.keys(run.artefacts).length) parts.push(folded("Artefacts it stands on", () => keyTable("Artefacts", run.artefacts)));
  if (Object.keys(run.outcome).length) parts.push(folded("What it reported at its end", () => keyTable("done.json", run.outcome)));
  return parts.length > 1 ? parts : [...parts, el("p", {}, "Nothing is recorded.")];
}
