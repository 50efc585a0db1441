// The page: colours, sorting, the filter of runs, and which part is shown (the address after #).

function startTheme() {
  const choice = document.getElementById("theme");
  choice.addEventListener("change", () => { document.documentElement.dataset.theme = choice.value; });
}

function startFilter() {
  const input = document.getElementById("filter");
  const rows = [...document.getElementById("all-runs").tBodies[0].rows];
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row) => { row.hidden = !wanted.every((word) => row.textContent.toLowerCase().includes(word)); });
    document.getElementById("filtered").textContent = wanted.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
  });
}

function route(event) {
  const wanted = location.hash.startsWith("#run=") ? decodeURI(location.hash.slice(5)) : null;
  const index = wanted === null ? -1 : data.runs.findIndex((run) => run.path === wanted);
  const holder = document.getElementById("run");
  document.querySelectorAll("main > .page").forEach((part) => { part.hidden = index >= 0; });
  holder.hidden = index < 0;
  holder.replaceChildren(...(index < 0 ? [] : runPage(index)));
  if (index >= 0) {
    window.scrollTo({top: 0, behavior: "instant"});
    document.getElementById("run-title").focus({preventScroll: true});
  } else if (event && location.hash.length > 1) {
    document.getElementById(location.hash.slice(1))?.scrollIntoView();
  }
}

startTheme();
document.querySelectorAll("table.sortable").forEach(makeSortable);
startFilter();
document.querySelectorAll("[data-look]").forEach((node) => node.append(swatch(data.rows[node.dataset.look])));
data.chapters.forEach((curves) => new Chapter(curves));
window.addEventListener("hashchange", route);
route();
