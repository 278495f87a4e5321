"use strict";
/* Moves each look through the words of its answers: slider, buttons, words, arrow keys. Text is only ever set as text. */
for (const look of document.querySelectorAll(".look")) {
  const data = JSON.parse(look.querySelector(".data").textContent);
  const slider = look.querySelector("input[type=range]");
  const output = look.querySelector("output");
  const last = Number(slider.max);
  const percent = (share) => Math.round(100 * share) + "%";

  const answers = [...look.querySelectorAll(".answer")].map((element, number) => {
    const { sets, steps } = data.answers[number];
    const veil = element.querySelector(".veil");
    const cells = (data.places || []).map(([row, column]) => {
      if (row < 0) return null; // a class token stands nowhere
      const cell = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      for (const [name, value] of Object.entries({ x: column, y: row, width: 1, height: 1 })) cell.setAttribute(name, value);
      veil.append(cell);
      return cell;
    });
    const words = [...element.querySelectorAll(".word")];
    const state = element.querySelector(".state");

    return (at) => {
      const step = Math.min(at, steps.length - 1);
      const { word, rate, mass, sets: layers } = steps[step];
      const lives = new Array(data.tokens).fill(0);
      for (const set of layers) for (const token of sets[set]) lives[token] += 1 / layers.length;
      cells.forEach((cell, token) => cell && cell.setAttribute("opacity", (0.86 * (1 - lives[token])).toFixed(3)));
      words.forEach((one, index) => (index === step ? one.setAttribute("aria-current", "step") : one.removeAttribute("aria-current")));
      const seen = sets[layers[layers.length - 1]].length;
      const [system, image, instruction, response] = mass.map(percent);
      state.textContent =
        (at > step ? "This answer has ended. At its last step: " : (word.trim() || "(end)") + " — ") +
        `the last layer attends to ${seen} of ${data.tokens} visual tokens (rate ${percent(rate)}). Attention: ` +
        `system ${system}, image ${image}, instruction ${instruction}, response ${response}.`;
    };
  });

  look.show = (at) => {
    slider.value = Math.max(0, Math.min(last, at));
    output.textContent = `word ${Number(slider.value) + 1} of ${last + 1}`;
    slider.setAttribute("aria-valuetext", output.textContent);
    for (const answer of answers) answer(Number(slider.value));
  };
  look.move = (by) => look.show(Number(slider.value) + by);
  slider.addEventListener("input", () => look.show(Number(slider.value)));
  for (const button of look.querySelectorAll(".step")) button.addEventListener("click", () => look.move(Number(button.dataset.by)));
  for (const word of look.querySelectorAll(".word")) word.addEventListener("click", () => look.show(Number(word.dataset.step)));
  look.querySelector(".control").hidden = false;
  look.show(0);
}

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (event.target.closest("input, textarea, select, .scroll")) return; // they have arrow keys of their own
  const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
  if (by === undefined) return;
  const inside = event.target.closest(".look");
  if (!inside && !Number.isFinite(by)) return; // of the page
  const inView = (look) => look.getBoundingClientRect().bottom > 80;
  const look = inside || [...document.querySelectorAll(".look")].find(inView);
  if (!look) return;
  event.preventDefault();
  look.move(by);
});
