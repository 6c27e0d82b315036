const toggle = on => event => {
  const bar = event.target.closest('.bar');
  if (!bar) return;
  const box = element.querySelector('#box-' + bar.dataset.k);
  box.classList.toggle('on', on || bar.classList.contains('chosen'));
};
for (const name of ['mouseover', 'focusin']) element.addEventListener(name, toggle(true));
for (const name of ['mouseout', 'focusout']) element.addEventListener(name, toggle(false));
element.addEventListener('click', event => {
  const bar = event.target.closest('.bar');
  if (bar) trigger('select', { index: Number(bar.dataset.k) });
});
// one bar is in the order of Tab, so that the sliders are near; arrow keys reach the others
element.addEventListener('keydown', event => {
  const bars = [...element.querySelectorAll('.bar')], at = bars.indexOf(event.target);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: bars.length - 1 }[event.key];
  if (at < 0 || to === undefined || !bars[to]) return;
  event.preventDefault();
  bars[to].focus();
});
