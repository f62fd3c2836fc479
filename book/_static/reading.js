// Boxes that scroll sideways get a place in the tab order, so that arrow keys scroll them. The
// theme does this for code; tables and formulas are left.
const scrollable = () => {
  for (const box of document.querySelectorAll(".bd-article table, mjx-container[display]")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise; // formulas have their width only then
  scrollable();
  document.addEventListener("toggle", scrollable, true); // a fold that opens
  document.addEventListener("click", () => setTimeout(scrollable));
});
window.addEventListener("resize", scrollable);

// Paper has no folds: answers are opened for printing and closed again.
window.addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll(".bd-article details:not(.hide, [open])")) {
    fold.open = true;
    fold.dataset.printed = "";
  }
});
window.addEventListener("afterprint", () => {
  for (const fold of document.querySelectorAll("details[data-printed]")) {
    fold.open = false;
    delete fold.dataset.printed;
  }
});
