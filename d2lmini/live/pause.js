// A break in a long computation.
/** Let the page do what it has to; a timer would be held back for four milliseconds. */
export const pause = () => new Promise((resolve) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => {
    port1.close();
    resolve();
  };
  port2.postMessage(0);
});
