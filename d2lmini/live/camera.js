// Frames of a camera, one after the other, for as long as the reader wants; then its light goes out.

/** Start the camera; `each(video)` is awaited for every frame. Returns the function that stops it. */
export async function startCamera(each, stopped) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("this page may not use a camera: that needs https or a page of this machine");
  }
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 640 } } })
    .catch((error) => { throw new Error(error.name === "NotAllowedError" ? "the camera was not allowed" : "no camera was found"); });
  const video = document.createElement("video");
  video.muted = video.playsInline = true;
  video.srcObject = stream;
  let running = true;
  const stop = () => {
    if (!running) return;
    running = false;
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
    document.removeEventListener("visibilitychange", leave);
    window.removeEventListener("pagehide", stop);
    stopped();
  };
  const leave = () => { if (document.hidden) stop(); };
  document.addEventListener("visibilitychange", leave);
  window.addEventListener("pagehide", stop);
  stream.getTracks()[0].addEventListener("ended", stop);
  const loop = async () => {
    try {
      await video.play();
      while (running) {
        await each(video);
        await new Promise(requestAnimationFrame);
      }
    } catch {
      stop();
    }
  };
  loop();
  return stop;
}
