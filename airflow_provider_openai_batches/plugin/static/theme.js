// The page follows Airflow's light or dark mode and, inside Airflow's frame, its colours and font.

import { airflow } from "./airflow.js";

const TOKENS = [
  "bg",
  "bg-muted",
  "bg-panel",
  "fg",
  "fg-muted",
  "border",
  "border-emphasized",
  "brand-solid",
  "brand-contrast",
];

export function followTheme() {
  const own = document.documentElement;
  const root = airflow?.document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");

  const apply = () => {
    const chosen =
      ["dark", "light"].find((mode) => root?.classList.contains(mode)) ?? localStorage.getItem("theme");
    const isDark = chosen === "dark" || (chosen !== "light" && system.matches);
    own.dataset.theme = isDark ? "dark" : "light";
    if (!root) return;
    const style = airflow.getComputedStyle(root);
    for (const token of TOKENS) {
      const value = style.getPropertyValue(`--chakra-colors-${token}`).trim();
      if (value) own.style.setProperty(`--${token}`, value);
    }
    own.style.setProperty("--font", airflow.getComputedStyle(airflow.document.body).fontFamily);
  };

  if (root) new MutationObserver(apply).observe(root, { attributes: true, attributeFilter: ["class"] });
  addEventListener("storage", apply);
  system.addEventListener("change", apply);
  apply();
}
