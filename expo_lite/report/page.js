// Starts the page: figures first, samples as soon as they are unpacked; light or dark as the system has it, or as chosen.
"use strict";

const figures = JSON.parse(document.getElementById("figures-data").textContent);
const THEMES = ["auto", "light", "dark"];
const theme = document.getElementById("theme");

theme.addEventListener("click", () => {
  const root = document.documentElement;
  const next = THEMES[(THEMES.indexOf(root.dataset.theme || "auto") + 1) % THEMES.length];
  root.dataset.theme = next;
  theme.textContent = "Light or dark: " + next;
  draw(figures);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(figures));
document.querySelectorAll("#curves details").forEach((part) => part.addEventListener("toggle", () => draw(figures)));
const figure = document.getElementById("figure");
if (figure) figure.addEventListener("change", () => draw(figures));
document.querySelectorAll("#choice input").forEach((box) => box.addEventListener("change", () => draw(figures)));
draw(figures);
offerToSave();

const packed = document.getElementById("samples-data");
if (packed) {
  unpack(packed.textContent.trim())
    .then(({ problems, rows }) => {
      browse(rows, figures.runs, sideBySide(problems, figures.runs));
      document.documentElement.dataset.ready = "yes";
    })
    .catch((error) => {
      document.getElementById("count").textContent = "The samples cannot be shown: this needs a browser of 2023 or later. " + error;
    });
} else {
  document.documentElement.dataset.ready = "yes";
}
