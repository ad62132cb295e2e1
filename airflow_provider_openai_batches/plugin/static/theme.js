// The page follows Airflow's light or dark mode and, inside Airflow's frame, its colours and font.

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

function airflowRoot() {
  try {
    return window.parent === window ? null : window.parent.document.documentElement;
  } catch {
    return null; // the frame belongs to another site
  }
}

export function followTheme() {
  const own = document.documentElement;
  const airflow = airflowRoot();
  const system = matchMedia("(prefers-color-scheme: dark)");

  const apply = () => {
    const chosen =
      ["dark", "light"].find((mode) => airflow?.classList.contains(mode)) ?? localStorage.getItem("theme");
    const isDark = chosen === "dark" || (chosen !== "light" && system.matches);
    own.dataset.theme = isDark ? "dark" : "light";
    if (!airflow) return;
    const style = window.parent.getComputedStyle(airflow);
    for (const token of TOKENS) {
      const value = style.getPropertyValue(`--chakra-colors-${token}`).trim();
      if (value) own.style.setProperty(`--${token}`, value);
    }
    own.style.setProperty("--font", window.parent.getComputedStyle(airflow.querySelector("body")).fontFamily);
  };

  if (airflow) new MutationObserver(apply).observe(airflow, { attributes: true, attributeFilter: ["class"] });
  addEventListener("storage", apply);
  system.addEventListener("change", apply);
  apply();
}
