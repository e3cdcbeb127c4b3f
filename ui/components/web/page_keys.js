// Keys that press the page's own buttons: arrows and the page keys of a presenter's remote control.

let names; // { ArrowRight: "key of a container with a button", ... }, as the last page said
let pointed; // the radio button that a mouse or finger pressed last: who chose so has no use for its arrows

const OWN = "input, textarea, select, [contenteditable], [role='slider'], [role='radio'], [role='combobox'], [role='tab']";

export default function listen(component) {
  const mine = JSON.parse(new TextDecoder().decode(component.data));
  if (names === undefined) {
    document.addEventListener("keydown", press);
    document.addEventListener("keydown", (event) => { if (control(event) && control(event) === pointed) press(event); }, true);
    document.addEventListener("pointerdown", (event) => { pointed = event.target.closest?.("[role='radio']"); }, true);
  }
  names = mine;
  return () => { if (names === mine) names = null; };
}

function control(event) {
  return event.target.closest?.(OWN);
}

function press(event) {
  if (event.key === "Tab") pointed = null; // from here on by key
  if (!names?.[event.key] || event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const own = control(event);
  if (own && own !== pointed && !event.key.startsWith("Page")) return; // there the arrows move the control
  if (event.target.closest?.("textarea, input[type='text']")) return;
  const button = names[event.key].map((key) => document.querySelector(`.st-key-${key} button:not(:disabled)`)).find(Boolean);
  if (!button) return;
  event.preventDefault();
  event.stopPropagation(); // or Streamlit would move among the radio buttons as well
  button.click();
}
