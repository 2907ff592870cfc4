
"use strict";
(() => {
  const { studies } = JSON.parse(document.getElementById("data").textContent);
  const first = studies.findIndex((study) => study.curves.length > 0);
  const one = (id) => document.getElementById(id);
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const hint = one("hint");
  const now = { s: first, p: 0, b: 0, budget: 0.5 };

  // ---------------------------------------------------------------- the selected point
  function show() {
    const study = studies[now.s];
    const curve = study.curves[now.p];
    const point = curve && curve.points[now.b];
    for (const part of all(".of-study")) part.hidden = Number(part.dataset.study) !== now.s;
    for (const part of all(".of-policy"))
      part.hidden = Number(part.dataset.study) !== now.s || Number(part.dataset.policy) !== now.p;
    one("study").value = now.s;
    one("policy").disabled = one("budget").disabled = !point;
    one("reading").hidden = !point;
    const shown = curve && curve.policy;
    for (const part of all(".by-policy")) part.hidden = part.dataset.policy !== shown;
    for (const ring of all(".ring")) ring.toggleAttribute("hidden", true);
    if (!point) return;
    showControls(curve, point);
    showFigures(point);
    showMarks();
    showPictures(curve, point);
    keepInAddress(study, curve, point);
  }

  function showControls(curve, point) {
    const policy = one("policy");
    if (policy.dataset.study !== String(now.s)) {
      policy.dataset.study = now.s;
      const names = studies[now.s].curves.map(({ points }) => points[0].text.policy);
      policy.replaceChildren(...names.map((name, number) => new Option(name, number)));
    }
    policy.value = now.p;
    const slider = one("budget");
    const budgets = curve.points.filter((each) => each.budget !== null).length;
    slider.max = budgets - 1;
    const fitted = now.b < budgets;
    slider.value = fitted ? now.b : nearest(curve.points, now.budget);
    slider.setAttribute("aria-valuetext", point.text.point);
    const rule = one("rule");
    if (rule) {
      rule.parentElement.hidden = budgets === curve.points.length;
      rule.checked = !fitted;
    }
    one("budget-value").textContent = fitted ? point.text.budget : "\u2013";
  }

  function showFigures(point) {
    for (const part of all("[data-show]")) part.textContent = point.text[part.dataset.show];
    const percents = point.shares;
    showBar(point.rates, percents);
    showHistogram(point);
    const legend = one("reading").querySelector(".legend");
    if (legend.children.length !== percents.length) {
      const model = all(".of-policy").find((part) => Number(part.dataset.study) === now.s);
      const items = all(".legend li", model).map((item) => item.cloneNode(true));
      for (const [k, item] of items.entries()) {
        const rate = document.createElement("b");
        rate.dataset.rate = k;
        item.append(rate);
      }
      legend.replaceChildren(...items);
    }
    for (const part of all("[data-rate]", legend)) part.textContent = percents[part.dataset.rate];
  }

  function showBar(rates, percents) {
    const bar = document.querySelector("[data-bar]");
    const fills = all(".of-policy").find((part) => Number(part.dataset.study) === now.s);
    const colours = all(".legend rect", fills).map((rect) => rect.getAttribute("fill"));
    let start = 0;
    const parts = rates.map((rate, k) => {
      const rect = document.createElementNS(bar.namespaceURI, "rect");
      const size = { x: 1000 * start, y: 0, width: 1000 * rate, height: 10, fill: colours[k] };
      for (const [name, value] of Object.entries(size)) rect.setAttribute(name, value);
      start += rate;
      return rect;
    });
    bar.replaceChildren(...parts);
    const said = percents.map((percent, k) => `exit ${k} ${percent}`).join(", ");
    bar.setAttribute("aria-label", `Exit rates: ${said}`);
  }

  function showHistogram({ rates, errors, shares }) {
    for (const bar of all(".share-bar")) {
      const k = all(".share-bar", bar.ownerSVGElement).indexOf(bar);
      const { x, top, foot } = bar.dataset;
      const at = (share) => foot - (foot - top) * Math.min(Math.max(share, 0), 1);
      const error = errors ? errors[k] : 0;
      const [high, low] = [at(rates[k] + error), at(rates[k] - error)];
      const rect = bar.querySelector("rect");
      rect.setAttribute("y", at(rates[k]));
      rect.setAttribute("height", foot - at(rates[k]));
      const ends = `M${x - 4},${low}h8M${x - 4},${high}h8`;
      bar.querySelector("path").setAttribute("d", `M${x},${low}V${high}${ends}`);
      const value = bar.querySelector(".value");
      value.setAttribute("y", high - 5);
      if (value.textContent) value.textContent = shares[k].split(" ")[0];
    }
  }

  function showMarks() {
    for (const mark of all(".mark")) {
      const { s, p, b } = mark.dataset;
      const chosen = Number(s) === now.s && Number(p) === now.p && Number(b) === now.b;
      mark.setAttribute("aria-pressed", chosen);
      if (!chosen) continue;
      const ring = mark.ownerSVGElement.querySelector(".ring");
      ring.removeAttribute("hidden");
      ring.setAttribute("transform", mark.getAttribute("transform"));
    }
    for (const bars of all(".bars[data-s]")) {
      const { s, p } = bars.dataset;
      bars.classList.toggle("now", Number(s) === now.s && Number(p) === now.p);
    }
    for (const column of all(".column"))
      column.classList.toggle("now", Number(column.dataset.b) === now.b);
  }

  // ---------------------------------------------------------------- pictures
  function showPictures(curve, point) {
    const study = studies[now.s];
    const box = all(".pictures").find((part) => Number(part.dataset.study) === now.s);
    if (!box) return;
    const where = box.querySelector("[data-at]");
    const known = point.exits !== null;
    for (const group of all("[data-exit]", box)) group.hidden = !known;
    where.textContent = known
      ? `${point.text.policy}, ${point.text.point}.`
      : `There are no pictures for ${point.text.policy} at ${point.text.point}.`;
    if (!known) return;
    const { labels } = study;  // maps have none
    const place = (i) => (labels ? labels[i] * labels.length : 0) + Number(i);  // by class
    const figures = all("[data-i]", box).sort(
      (a, b) => place(a.dataset.i) - place(b.dataset.i));
    const grids = all("[data-exit] .grid", box);
    for (const grid of grids) grid.replaceChildren();
    for (const figure of figures) {
      const exit = point.exits[figure.dataset.i];
      if (labels) judge(study, figure, exit);
      for (const answer of all("[data-answer]", figure))
        answer.hidden = Number(answer.dataset.answer) !== exit;
      grids[exit].append(figure);
    }
    for (const [k, grid] of grids.entries()) {
      const share = grid.parentElement.querySelector(".share");
      share.textContent = `${grid.children.length} of ${figures.length}`;
      grid.setAttribute("aria-label", `Pictures that leave at exit ${k}`);
    }
  }

  function judge(study, figure, exit) {
    const answer = study.answers[exit][figure.dataset.i];
    const label = study.labels[figure.dataset.i];
    const verdict = label < 0 ? "unknown" : answer === label ? "right" : "wrong";
    figure.className = verdict;
    const said = study.classes[answer];
    const words = { unknown: said, right: "\u2713 right", wrong: `\u2717 ${said}` }[verdict];
    figure.querySelector("figcaption span").textContent = words;
  }

  // ---------------------------------------------------------------- selecting
  function select(s, p, budget) {
    const curves = studies[s].curves;
    now.s = s;
    now.p = Math.min(Math.max(p, 0), Math.max(curves.length - 1, 0));
    now.b = curves.length ? nearest(curves[now.p].points, budget) : 0;
    if (curves.length) now.budget = curves[now.p].points[now.b].budget ?? now.budget;
    show();
  }

  // the point at a budget, or that of the published rule for null, where there is one
  function nearest(points, budget) {
    const rule = points.findIndex((point) => point.budget === null);
    if (budget === null && rule >= 0) return rule;
    const wanted = budget ?? now.budget;
    const away = points.map((point) => Math.abs((point.budget ?? Infinity) - wanted));
    return away.indexOf(Math.min(...away));
  }

  function budgetNow() {
    const curve = studies[now.s].curves[now.p];
    return curve ? curve.points[now.b].budget : 0.5;
  }

  function samePolicy(s) {
    const curve = studies[now.s].curves[now.p];
    const found = studies[s].curves.findIndex((other) => curve && other.policy === curve.policy);
    return Math.max(found, 0);
  }

  function keepInAddress(study, curve, point) {
    const state = new URLSearchParams();
    if (studies.length > 1) state.set("study", study.name);
    state.set("policy", curve.policy);
    const { budget } = point;
    state.set("budget", budget === null ? "rule" : String(Number(budget.toFixed(6))));
    try {
      history.replaceState(null, "", `#${state}`);
    } catch {
      // some browsers forbid it for files; the page works without
    }
  }

  function fromAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const named = studies.findIndex((study) => study.name === asked.get("study"));
    const s = named < 0 ? first : named;
    const curves = studies[s].curves;
    const found = curves.findIndex((curve) => curve.policy === asked.get("policy"));
    const start = Math.max(curves.findIndex((curve) => !curve.control), 0);
    const p = found < 0 ? start : found;
    const given = Number.parseFloat(asked.get("budget"));
    const middle = curves.length ? curves[p].points[curves[p].middle].budget : 0;
    now.budget = middle;
    if (asked.get("budget") === "rule") select(s, p, null);
    else select(s, p, Number.isFinite(given) ? given : middle);
  }

  // ---------------------------------------------------------------- marks of the chart
  function tell(mark) {
    hint.textContent = mark.getAttribute("aria-label");
    hint.hidden = false;
    const place = mark.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = place.left + place.width / 2 - hint.offsetWidth / 2;
    const kept = Math.max(8, Math.min(left, width - hint.offsetWidth - 8));
    const above = place.top - hint.offsetHeight - 8;
    const top = above < 0 ? place.bottom + 8 : above;
    hint.style.left = `${kept + scrollX}px`;
    hint.style.top = `${top + scrollY}px`;
  }

  function choose(mark) {
    const { s, p, b } = mark.dataset;
    if (s === undefined) return;
    select(Number(s), Number(p), studies[s].curves[p].points[b].budget);
  }

  function step(chart, mark, key) {
    const marks = all(".mark, .rival", chart);
    const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    const from = marks.indexOf(mark);
    const to = key === "Home" ? 0 : key === "End" ? marks.length - 1 : from + moves[key];
    const next = marks[(to + marks.length) % marks.length];
    mark.setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  }

  function listen(chart) {
    const marks = all(".mark, .rival", chart);
    if (marks.length) marks[0].setAttribute("tabindex", 0);
    for (const mark of marks) {
      for (const kind of ["mouseenter", "focus"]) mark.addEventListener(kind, () => tell(mark));
      for (const kind of ["mouseleave", "blur"])
        mark.addEventListener(kind, () => (hint.hidden = true));
      mark.addEventListener("click", () => choose(mark));
      mark.addEventListener("keydown", (event) => {
        const { key } = event;
        if (key === "Enter" || key === " ") choose(mark);
        else if (/^(Arrow|Home|End)/.test(key)) step(chart, mark, key);
        else if (key === "Escape") hint.hidden = true;
        else return;
        event.preventDefault();
      });
    }
  }

  for (const chart of all(".accuracy, .hinted")) listen(chart);
  addEventListener("beforeprint", () => {
    for (const part of all("details")) part.open = true;
  });
  if (first < 0) return;
  one("controls").hidden = false;
  one("controls").addEventListener("submit", (event) => event.preventDefault());
  one("study").addEventListener("change", ({ target }) =>
    select(Number(target.value), samePolicy(Number(target.value)), budgetNow()));
  one("policy").addEventListener("change", ({ target }) =>
    select(now.s, Number(target.value), budgetNow()));
  one("budget").addEventListener("input", ({ target }) => {
    now.b = Number(target.value);
    now.budget = budgetNow();
    show();
  });
  one("rule")?.addEventListener("change", ({ target }) =>
    select(now.s, now.p, target.checked ? null : now.budget));
  addEventListener("hashchange", fromAddress);
  fromAddress();
})();
