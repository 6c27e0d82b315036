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
