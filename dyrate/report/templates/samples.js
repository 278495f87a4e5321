/* The browser of samples. Text of models and data sets is only ever set as text. */
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const form = document.getElementById("browse"), list = document.getElementById("found");
  const count = document.getElementById("count"), more = document.getElementById("more");
  const rows = read("rows"), blocks = new Map();
  const PAGE = 20, MANY = 6;
  const models = [...new Set(rows.map((one) => one.model))];
  let found = [], shown = 0;

  const block = (name) => {
    if (!blocks.has(name)) blocks.set(name, read("block-" + name).map((line) => ({ line, name })));
    return blocks.get(name);
  };
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const answer = ({ line }, row) => (row === null || line[4][row] < 0 ? null : line[3][line[4][row]]);

  const outcomes = {
    right: (mine) => mine[1] !== null && mine[2] === 1 && mine[1] >= 0.5,
    wrong: (mine) => mine[1] !== null && mine[2] === 1 && mine[1] < 0.5,
    better: (mine, whole) => whole && mine[1] > whole[1],
    worse: (mine, whole) => whole && mine[1] < whole[1],
    other: (mine, whole) => whole && mine[0] !== whole[0],
  };

  const search = () => {
    const { benchmark, row, outcome, text } = Object.fromEntries(new FormData(form));
    const at = rows.findIndex((one) => one.key === row);
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const names = benchmark ? [benchmark] : [...form.elements.benchmark.options].map((o) => o.value).filter(Boolean);
    const fits = (sample) => {
      const candidates = at < 0 ? rows.map((_, i) => i) : [at];
      const outcomeFits = candidates.some((i) => {
        const mine = answer(sample, i);
        return mine && (!outcome || outcomes[outcome](mine, answer(sample, rows[i].whole)));
      });
      if (!outcomeFits) return false;
      const all = [sample.line[1], ...sample.line[2], ...sample.line[3].map((one) => one[0])].join(" ").toLowerCase();
      return words.every((word) => all.includes(word));
    };
    found = names.flatMap(block).filter(fits);
    shown = 0;
    list.replaceChildren();
    count.textContent = found.length === 1 ? "1 sample" : `${found.length} samples`;
    grow();
    history.replaceState(null, "", "#" + new URLSearchParams([...new FormData(form)].filter(([, v]) => v)));
  };

  const mark = ([, score, scale]) => {
    if (score === null) return null;
    if (scale === 100) return make("span", "muted small", ` CIDEr ${score.toFixed(1)}`);
    const right = score >= 0.5;
    const sign = make("span", "mark " + (right ? "better" : "worse"), right ? "✓ " : "✗ ");
    sign.setAttribute("role", "img");
    sign.setAttribute("aria-label", right ? "right" : "wrong");
    return sign;
  };

  const card = (sample) => {
    const [id, question, references, answers, given, image] = sample.line;
    const chosen = rows.findIndex((one) => one.key === form.elements.row.value);
    const title = [...form.elements.benchmark.options].find((o) => o.value === sample.name).textContent;
    const article = make("article", image ? "card" : "card plain");
    if (image) {
      const picture = new Image();
      picture.src = image;
      picture.alt = `The image of this ${title} sample`;
      picture.loading = "lazy";
      article.append(picture);
    }
    const about = make("div");
    about.append(make("h3", "", `${title}, row ${id}`), make("p", "question", question));
    references.forEach((text) => about.append(make("p", "reference", text)));
    const answered = make("dl");
    answers.forEach((one, number) => {
      const by = given.flatMap((n, i) => (n === number ? [i] : []))
        .filter((i) => chosen < 0 || i === chosen || i === rows[chosen].whole);
      if (!by.length) return;
      const term = make("dt"), sign = mark(one);
      if (sign && one[2] === 1) term.append(sign);
      term.append(one[0] || "(empty)");
      if (sign && one[2] === 100) term.append(sign);
      answered.append(term, ...models.filter((model) => by.some((i) => rows[i].model === model)).map((model) => {
        const these = by.filter((i) => rows[i].model === model), all = rows.filter((one) => one.model === model);
        const names = these.map((i) => rows[i].label).join(" · ");
        if (these.length <= MANY) return make("dd", "", models.length > 1 ? `${model}: ${names}` : names);
        const line = make("dd"), fold = make("details", "data");
        fold.append(make("summary", "", `${model}: ${these.length} of ${all.length} rows`), names);
        line.append(fold);
        return line;
      }));
    });
    article.append(about, answered);
    return article;
  };

  const grow = () => {
    const next = found.slice(shown, shown + PAGE).map(card);
    list.append(...next);
    shown += next.length;
    more.hidden = shown >= found.length;
    more.textContent = `Show more (${found.length - shown} left)`;
    return next;
  };

  const start = () => {
    for (const [name, value] of new URLSearchParams(location.hash.slice(1)))
      if (form.elements[name]) form.elements[name].value = value;
    search();
  };
  for (const model of models) {
    const group = document.createElement("optgroup");
    group.label = model;
    const many = new Set(rows.map((one) => one.decoding)).size > 1;
    for (const one of rows.filter((r) => r.model === model))
      group.append(new Option(one.label + (many ? `, ${one.decoding}` : ""), one.key));
    form.elements.row.append(group);
  }
  form.addEventListener("input", search);
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const [first] = grow();
    first?.setAttribute("tabindex", "-1");
    first?.focus();
  });
  addEventListener("hashchange", start);
  form.hidden = false;
  start();
})();
