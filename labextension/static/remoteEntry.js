// A prebuilt extension of JupyterLab, written by hand: no build, no dependency, no request.
//
// JupyterLab 4 draws an output of type image/png as <img> without alt, whatever the output's
// metadata say. This renders it as before and then takes the alternative text from there.
(() => {
  const TYPE = 'image/png';
  let shared = {};

  async function load(name) {
    const [version] = Object.values(shared[name]);
    return (await version.get())();
  }

  function described(factory) {
    return {
      ...factory,
      mimeTypes: [TYPE],
      createRenderer: options => {
        const renderer = factory.createRenderer(options);
        const render = renderer.renderModel.bind(renderer);
        renderer.renderModel = async model => {
          await render(model);
          const alt = model.metadata?.[TYPE]?.alt;
          if (typeof alt === 'string') {
            renderer.node.querySelectorAll('img').forEach(img => { img.alt = alt; });
          }
        };
        return renderer;
      }
    };
  }

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB['redis-lab'] = {
    init: scope => { shared = scope; },
    get: async () => {
      const { IRenderMimeRegistry } = await load('@jupyterlab/rendermime');
      const plugin = {
        id: 'redis-lab:alternative-texts',
        description: 'Gives figures the alternative text that their metadata hold.',
        autoStart: true,
        requires: [IRenderMimeRegistry],
        activate: (_, registry) => registry.addFactory(described(registry.getFactory(TYPE)))
      };
      return () => ({ __esModule: true, default: plugin });
    }
  };
})();
