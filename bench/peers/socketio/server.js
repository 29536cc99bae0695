// node server.js PORT: Socket.IO as its documentation has it, WebSocket only. Clients are not pinged within a run.
const { Server } = require("socket.io");

const io = new Server({ transports: ["websocket"], pingInterval: 600000, serveClient: false });
io.on("connection", (socket) => {
  socket.on("subscribe", (room, answer) => {
    socket.join(room);
    answer();
  });
  socket.on("publish", (room, message, answer) => {
    io.to(room).emit("message", message);
    answer();
  });
});
io.listen(Number(process.argv[2]));
